//! Control groups: where those of a name lie in all hierarchies of the machine, their values and their removal.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::process::Process;

/// A hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    /// `memory` and the like; empty for the unified one.
    controllers: Vec<String>,
    /// What of it is mounted, mostly `/`.
    root: String,
    /// Where.
    mount: PathBuf,
}

/// The hierarchies of the machine.
#[derive(Clone, Debug, Default)]
pub struct Hierarchies {
    all: Vec<Hierarchy>,
}

impl Hierarchies {
    /// Those that are mounted here.
    pub fn read() -> io::Result<Hierarchies> {
        Ok(Hierarchies { all: parse(&fs::read_to_string("/proc/self/mountinfo")?) })
    }

    /// True if one hierarchy serves all controllers, false if some have one of their own.
    pub fn unified(&self) -> bool {
        let own = |h: &Hierarchy| h.controllers.iter().any(|c| ["memory", "cpu", "pids"].contains(&c.as_str()));
        !self.all.iter().any(own)
    }

    /// All directories of the cgroup of that name, below the root or the cgroup of init or of this process.
    pub fn places(&self, name: &str) -> Vec<PathBuf> {
        let bases = Bases::read();
        let all = self.all.iter().flat_map(|h| bases.candidates(h, name));
        all.collect::<BTreeSet<_>>().into_iter().filter(|p| p.is_dir()).collect()
    }

    /// The directory of the cgroup of that name which has a controller.
    pub fn place(&self, controller: &str, name: &str) -> Option<PathBuf> {
        let mut named = self.all.iter().filter(|h| h.controllers.iter().any(|c| c == controller));
        let hierarchy = named.next().or_else(|| self.all.iter().find(|h| h.controllers.is_empty()))?;
        Bases::read().candidates(hierarchy, name).into_iter().find(|p| p.is_dir())
    }

    /// Ends the processes in the cgroup of that name and removes it. Errors if something remains.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        let end = Instant::now() + Duration::from_secs(5);
        for place in self.places(name) {
            while let Err(e) = remove_tree(&place) {
                if Instant::now() > end {
                    let what = format!("The cgroup {} can't be removed: {e}", place.display());
                    return Err(io::Error::new(e.kind(), what));
                }
                kill(&place);
                sleep(Duration::from_millis(5));
            }
        }
        Ok(())
    }

    /// Ends the processes in the cgroup of that name and tells whether none is left; it stays.
    pub fn kill(&self, name: &str) -> bool {
        let places = self.places(name);
        places.iter().for_each(|place| kill(place));
        places.iter().all(|place| processes(place).is_empty())
    }

    /// Removes the cgroup of that name where it has nothing in it.
    pub fn remove_empty(&self, name: &str) {
        for place in self.places(name) {
            let _ = fs::remove_dir(place);
        }
    }
}

/// The processes in a cgroup and below it.
pub fn processes(place: &Path) -> Vec<u32> {
    let text = fs::read_to_string(place.join("cgroup.procs")).unwrap_or_default();
    // A process of another namespace is 0 here.
    let mut all: Vec<u32> = text.lines().filter_map(|l| l.parse().ok()).filter(|pid| *pid > 0).collect();
    for below in below(place) {
        all.extend(processes(&below));
    }
    all
}

fn below(place: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
}

fn remove_tree(place: &Path) -> io::Result<()> {
    for below in below(place) {
        remove_tree(&below)?;
    }
    match fs::remove_dir(place) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Ends all in it, frozen or not.
fn kill(place: &Path) {
    // Version 2 has a file for it, with which nothing that is being started escapes.
    let _ = fs::write(place.join("cgroup.kill"), "1");
    for pid in processes(place) {
        if let Ok(Some(process)) = Process::open(pid) {
            let _ = process.signal(libc::SIGKILL);
        }
    }
    for (file, value) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
        if place.join(file).exists() {
            let _ = fs::write(place.join(file), value);
        }
    }
}

/// The cgroups of init and of this process, by hierarchy: liblxc puts its own below one of them.
struct Bases(Vec<(Vec<String>, String)>);

impl Bases {
    fn read() -> Bases {
        let of = |pid: &str| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let mut all = Vec::new();
        for text in [of("1"), of("self")] {
            for line in text.lines() {
                let mut fields = line.splitn(3, ':').skip(1);
                if let (Some(controllers), Some(path)) = (fields.next(), fields.next()) {
                    let path = path.strip_suffix("/init.scope").unwrap_or(path);
                    all.push((list(controllers), path.to_owned()));
                }
            }
        }
        Bases(all)
    }

    fn candidates(&self, hierarchy: &Hierarchy, name: &str) -> Vec<PathBuf> {
        let bases = self.0.iter().filter(|(c, _)| *c == hierarchy.controllers).map(|(_, path)| path.as_str());
        let under = |base: &str| {
            let base = base.strip_prefix(hierarchy.root.trim_end_matches('/')).unwrap_or("").trim_matches('/');
            hierarchy.mount.join(base).join(name)
        };
        bases.chain([hierarchy.root.as_str()]).map(under).collect()
    }
}

fn list(controllers: &str) -> Vec<String> {
    let mut all: Vec<String> = controllers.split(',').filter(|c| !c.is_empty()).map(str::to_owned).collect();
    all.sort();
    all
}

/// The hierarchies in the text of `mountinfo`.
fn parse(mountinfo: &str) -> Vec<Hierarchy> {
    // What is no controller among the options of a mount.
    const OPTIONS: &[&str] = &["rw", "ro", "xattr", "nsdelegate", "memory_recursiveprot", "clone_children", "noprefix"];
    let mut all: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let mut before = before.split(' ').skip(3);
        let (Some(root), Some(mount)) = (before.next(), before.next()) else { continue };
        let mut after = after.split(' ');
        let controllers = match (after.next(), after.nth(1)) {
            (Some("cgroup2"), _) => Vec::new(),
            (Some("cgroup"), Some(options)) => {
                list(options).into_iter().filter(|o| !OPTIONS.contains(&o.as_str())).collect()
            }
            _ => continue,
        };
        // Mounted over each other, the last one is what is seen.
        all.retain(|h| h.mount != Path::new(mount));
        all.push(Hierarchy { controllers, root: root.to_owned(), mount: mount.into() });
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "\
30 20 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
31 20 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
32 20 0:28 /docker /sys/fs/cgroup/memory rw shared:1 - cgroup cgroup rw,memory
33 20 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
34 20 0:30 / / rw - ext4 /dev/x rw
";

    #[test]
    fn hierarchies_are_told_by_what_is_mounted() {
        let v1 = Hierarchies { all: parse(V1) };
        assert_eq!(v1.all.len(), 4);
        assert_eq!(v1.all[0].controllers, ["cpu", "cpuacct"]);
        assert_eq!(v1.all[1].controllers, ["name=systemd"]);
        assert!(!v1.unified());
        let v2 = Hierarchies { all: parse("1 2 0:3 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n") };
        assert!(v2.unified() && v2.all[0].controllers.is_empty());
    }

    #[test]
    fn a_cgroup_lies_below_that_of_init_as_far_as_it_is_mounted() {
        let all = parse(V1);
        let bases = Bases(vec![(vec!["memory".into()], "/docker/abc".into()), (vec!["memory".into()], "/".into())]);
        let paths = bases.candidates(&all[2], "incus-1/c1");
        assert_eq!(paths[0], Path::new("/sys/fs/cgroup/memory/abc/incus-1/c1"));
        assert_eq!(paths[1], Path::new("/sys/fs/cgroup/memory/incus-1/c1"));
        assert_eq!(bases.candidates(&all[3], "x"), [PathBuf::from("/sys/fs/cgroup/unified/x")]);
    }
}
