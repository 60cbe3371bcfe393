//! What the machine has, or the part of it that the server may use.

use anyhow::Result;
use rustix::process::{Resource, getrlimit};
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// Bytes of memory: of the machine, or of the control group that the server is in.
pub(super) fn memory_bytes() -> Result<u64> {
    let mut system = System::new()?;
    system.refresh_memory();
    let own = Pid::from_u32(std::process::id());
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[own]), false, ProcessRefreshKind::nothing());
    let of_group = system.process(own).and_then(|own| own.cgroup_limits()).map(|limits| limits.total_memory);
    Ok(system.total_memory().min(of_group.unwrap_or(u64::MAX)))
}

/// Bytes of address space, of which memory takes a part (`ulimit -v`); none without a limit.
pub(super) fn address_space_bytes() -> Option<u64> {
    getrlimit(Resource::As).current
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_memory() {
        assert!(memory_bytes().unwrap() > 64 << 20);
    }
}
