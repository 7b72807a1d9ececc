"""Which kernel function a message or a step stands for, as data; read by explanations and reports.

Names are those of Linux v6.15 where it has the function, else of the last kernel that had it.
"""

from typing import Final

from vm_protocol.messages import CLOCK_UPDATE, DROP_OBSOLETE_ROOTS, SCAN_IOAPIC, TLB_FLUSH

MESSAGE_FUNCTIONS: Final[dict[str, str]] = {
    "CreateVm": "kvm_create_vm",
    "VmCreated": "kvm_create_vm",
    "DestroyVm": "kvm_destroy_vm",
    "VmDestroyed": "kvm_destroy_vm",
    "RemoveVm": "kvm_put_kvm",
    "VmRemoved": "kvm_put_kvm",
    "Refused": "kvm_vm_ioctl",
    "PlaceVcpu": "kvm_vm_ioctl_create_vcpu",
    "VcpuPlaced": "kvm_vm_ioctl_create_vcpu",
    "DestroyVcpu": "kvm_arch_vcpu_destroy",
    "VcpuStepsDone": "kvm_destroy_vcpus",
    "RootsReleased": "kvm_mmu_free_roots",
    "UnloadDone": "kvm_mmu_unload",
    "ZapRequested": "free_mmu_pages",
    "ZapDone": "free_mmu_pages",
    "VmStateRead": "svm_leave_nested",
    "AsyncPfCompleted": "async_pf_execute",
    "PlacementAnswered": "kvm_vm_ioctl_create_vcpu",
    "WorkerAlive": "watchdog_timer_fn",
    "WorkerLeaving": "do_exit",
    "RequestAcked": "kvm_make_all_cpus_request",
    "CommandStuck": "kvm_destroy_vcpus",
    "TlbFlush": "kvm_make_all_cpus_request",
    "DropObsoleteRoots": "kvm_make_all_cpus_request",
    "ScanIoapic": "kvm_make_all_cpus_request",
    "ClockUpdate": "kvm_make_all_cpus_request",
}
"""Message type -> function."""

STEP_FUNCTIONS: Final[dict[str, str]] = {
    "stop_background_workers": "kvm_arch_pre_destroy_vm",
    "zap_all_roots": "kvm_mmu_zap_all",
    "flush_tlbs": "kvm_flush_remote_tlbs",
    "free_irqchip": "kvm_ioapic_destroy",
    "vendor_vm_destroy": "svm_vm_destroy",
    "uninit_mmu": "kvm_mmu_uninit_vm",
    "leave_nested": "svm_leave_nested",
    "load_vcpu": "vcpu_load",
    "put_vcpu": "vcpu_put",
    "clear_async_pf": "kvm_clear_async_pf_completion_queue",
    "unload_mmu": "kvm_mmu_unload",
    "zap_all_until_empty": "free_mmu_pages",
    "free_vcpu": "kmem_cache_free",
    "erase_vcpu": "xa_erase",
}
"""Step of an ordering -> function."""

REQUEST_CALLS: Final[dict[str, str]] = {
    TLB_FLUSH: "kvm_flush_remote_tlbs()",
    DROP_OBSOLETE_ROOTS: "kvm_make_all_cpus_request(KVM_REQ_MMU_FREE_OBSOLETE_ROOTS)",
    SCAN_IOAPIC: "kvm_make_all_cpus_request(KVM_REQ_SCAN_IOAPIC)",
    CLOCK_UPDATE: "kvm_make_all_cpus_request(KVM_REQ_CLOCK_UPDATE)",
}
"""Kind of request -> the call that posts it."""

RAISERS: Final[dict[str, str]] = {
    "zap-all": "kvm_mmu_zap_all()",
    "unload": "kvm_mmu_unload()",
    "flush-tlbs": "kvm_flush_remote_tlbs()",
    "ticker": "kvmclock_sync_fn()",
    "pit": "kvm_free_pit()",
    "host-lost": "do_exit()",
}
"""`by` of a posted request -> who raises it."""

STATE_READERS: Final[dict[str, str]] = {"irqchip": "svm_leave_nested", "vendor": "avic_vcpu_load"}
"""VM-level state -> the vCPU's function that touches it."""

STATE_FREERS: Final[dict[str, str]] = {"irqchip": "kvm_ioapic_destroy", "vendor": "svm_vm_destroy"}
"""VM-level state -> the function that frees it."""

ROOT_FREERS: Final[dict[str, str]] = {
    "zap-all": "kvm_mmu_zap_all",
    "unload": "kvm_mmu_free_roots",
    "uninit": "kvm_mmu_uninit_vm",
    "zap-until-empty": "free_mmu_pages",
    "host-lost": "kvm_mmu_free_roots",
}
"""`by` of a root's free -> the function that frees it."""
