//! What the kernel says of processes: CPU time and memory, for some processes and
//! all that descend from them.

use std::collections::HashMap;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// `/proc` counts in hundredths of a second, whatever the kernel's own clock.
const TICK_MICROS: u64 = 10_000;

/// CPU time of processes since they were started.
#[derive(Clone, Copy, Default)]
pub struct Cpu {
    pub user_micros: u64,
    pub system_micros: u64,
}

impl Cpu {
    pub fn since(self, earlier: Cpu) -> Cpu {
        Cpu {
            user_micros: self.user_micros.saturating_sub(earlier.user_micros),
            system_micros: self.system_micros.saturating_sub(earlier.system_micros),
        }
    }

    pub fn micros(self) -> u64 {
        self.user_micros + self.system_micros
    }
}

/// A line of the kernel's table of processes.
struct Process {
    parent: u32,
    cpu: Cpu,
}

/// The processes `roots` and all that descend from them.
pub struct Tree {
    roots: Vec<u32>,
}

impl Tree {
    pub fn new(roots: Vec<u32>) -> Tree {
        Tree { roots }
    }

    pub fn cpu(&self) -> Result<Cpu> {
        let table = table()?;
        let mut sum = Cpu::default();
        for pid in self.members(&table) {
            sum.user_micros += table[&pid].cpu.user_micros;
            sum.system_micros += table[&pid].cpu.system_micros;
        }
        Ok(sum)
    }

    /// The most that each process ever had in memory, added up.
    pub fn peak_bytes(&self) -> Result<u64> {
        self.sum_bytes("VmHWM:")
    }

    pub fn resident_bytes(&self) -> Result<u64> {
        self.sum_bytes("VmRSS:")
    }

    /// Ends every process by its id.
    pub fn kill(&self) -> Result<()> {
        let pids: Vec<String> = self.members(&table()?).iter().map(u32::to_string).collect();
        if !pids.is_empty() {
            Command::new("kill").arg("-KILL").args(pids).output().context("kill")?;
        }
        Ok(())
    }

    fn sum_bytes(&self, field: &str) -> Result<u64> {
        let members = self.members(&table()?);
        ensure!(!members.is_empty(), "none of its processes is left");
        let mut sum = 0;
        for pid in members {
            let path = format!("/proc/{pid}/status");
            let status = fs::read_to_string(&path).with_context(|| path.clone())?;
            let line = status.lines().find_map(|line| line.strip_prefix(field));
            let kib: Option<u64> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            sum += kib.with_context(|| format!("{path} has no {field}"))? * 1024;
        }
        Ok(sum)
    }

    fn members(&self, table: &HashMap<u32, Process>) -> Vec<u32> {
        let mut members: Vec<u32> =
            self.roots.iter().copied().filter(|pid| table.contains_key(pid)).collect();
        let mut next = 0;
        while let Some(&parent) = members.get(next) {
            members.extend(table.iter().filter(|(_, process)| process.parent == parent).map(|(pid, _)| *pid));
            next += 1;
        }
        members
    }
}

fn table() -> Result<HashMap<u32, Process>> {
    let mut table = HashMap::new();
    for entry in fs::read_dir("/proc").context("/proc")? {
        let name = entry.context("/proc")?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that ended meanwhile has no more line.
        if let Some(process) = process(pid) {
            table.insert(pid, process);
        }
    }
    Ok(table)
}

/// Reads `/proc/PID/stat`, whose fields after the name in parentheses are, from
/// number 3 on, the state, the parent and so on; 14 and 15 are the CPU times.
fn process(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let cpu = Cpu { user_micros: field(14)? * TICK_MICROS, system_micros: field(15)? * TICK_MICROS };
    Some(Process { parent: field(4)?.try_into().ok()?, cpu })
}
