"""The vm_manager service: owns VMs, runs an ordering step by step, watches the dead letters.

Takes CreateVm, DestroyVm and RemoveVm from clients, replies from workers; posts requests to all
visible vCPUs and commands to workers. Exports two pure cores: the manager and the monitor.
"""

from vm_manager.manager import VmManager
from vm_manager.monitor import DeadLetterMonitor, MonitorState
from vm_manager.state import ManagerState

__all__ = ["DeadLetterMonitor", "ManagerState", "MonitorState", "VmManager"]
