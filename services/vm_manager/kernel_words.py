"""KVM's own names for what a step does, for those who write them in an ordering; data.

Sources: arch/x86/kvm and virt/kvm of Linux v2.6.22 to v6.16.
"""

from typing import Final

_FUNCTIONS_OF: Final[dict[str, tuple[str, ...]]] = {
    "stop_background_workers": (
        "kvm_arch_pre_destroy_vm",
        "kvm_arch_sync_events",
        "kvm_free_pit",
    ),
    "zap_all_roots": (
        "kvm_mmu_zap_all",
        "kvm_tdp_mmu_zap_all",
        "kvm_mmu_zap_all_fast",
        "kvm_arch_flush_shadow_all",
        "kvm_flush_shadow_all",
        "kvm_mmu_notifier_release",
    ),
    "flush_tlbs": ("kvm_flush_remote_tlbs", "kvm_make_all_cpus_request"),
    "free_irqchip": ("kvm_pic_destroy", "kvm_ioapic_destroy", "kvm_free_msr_filter"),
    "vendor_vm_destroy": ("svm_vm_destroy", "vmx_vm_destroy", "kvm_x86_vm_destroy"),
    "uninit_mmu": ("kvm_mmu_uninit_vm", "kvm_mmu_uninit_tdp_mmu", "kvm_page_track_cleanup"),
    "for_each_vcpu": (
        "kvm_destroy_vcpus",
        "kvm_free_vcpus",
        "kvm_for_each_vcpu",
        "kvm_unload_vcpu_mmus",
    ),
    "leave_nested": ("kvm_leave_nested", "vmx_leave_nested", "svm_leave_nested"),
    "load_vcpu": ("vcpu_load", "kvm_arch_vcpu_load"),
    "put_vcpu": ("vcpu_put", "kvm_arch_vcpu_put"),
    "clear_async_pf": ("kvm_clear_async_pf_completion_queue", "kvm_async_pf_hash_reset"),
    "unload_mmu": ("kvm_mmu_unload", "kvm_unload_vcpu_mmu", "kvm_mmu_free_roots"),
    "zap_all_until_empty": ("free_mmu_pages",),
    "free_vcpu": (
        "kvm_vcpu_destroy",
        "kvm_arch_vcpu_destroy",
        "kvm_arch_vcpu_free",
        "kmem_cache_free",
    ),
    "erase_vcpu": ("xa_erase", "xa_release"),
}

STEP_OF_FUNCTION: Final = {
    function: step for step, functions in _FUNCTIONS_OF.items() for function in functions
}


def step_meant(word: str) -> str | None:
    """Return the step that a kernel function stands for; None if it is none of them."""
    return STEP_OF_FUNCTION.get(word.strip().removesuffix("()"))
