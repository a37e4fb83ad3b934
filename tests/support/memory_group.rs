//! Processes that may take no more memory than a limit.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A group of processes whose memory is limited. The system ends a process that takes more. Removed when this is
/// dropped, which has to be after the processes have ended.
pub(crate) struct MemoryGroup {
    path: PathBuf,
}

impl MemoryGroup {
    /// `None`, with a message, where this user cannot make one.
    pub(crate) fn new(bytes_max: usize) -> Option<MemoryGroup> {
        let groups = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        for (root, limit) in groups {
            let path = Path::new(root).join(format!("retcd-test-{}", std::process::id()));
            if fs::create_dir(&path).is_err() {
                continue;
            }
            let group = MemoryGroup { path };
            if fs::write(group.path.join(limit), bytes_max.to_string()).is_ok() {
                return Some(group);
            }
        }
        eprintln!("this user cannot limit the memory of a process, so it is only measured");
        None
    }

    pub(crate) fn enter(&self, process: u32) {
        let entered = fs::write(self.path.join("cgroup.procs"), process.to_string());
        entered.expect("a process can be moved into a group of ours");
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}
