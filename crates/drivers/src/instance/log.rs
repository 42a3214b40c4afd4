//! Why a start failed, in the words of liblxc.

/// The most lines that are told.
const LINES: usize = 4;

/// The messages of the errors at the end of a log of liblxc, the first cause first.
pub fn reasons(log: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for line in log.lines().filter(|l| l.split_whitespace().nth(3) == Some("ERROR")) {
        // lxc c1 20260102030405.678 ERROR    conf - ../src/lxc/conf.c:function:1234 - the message
        let message = line.splitn(3, " - ").nth(2).unwrap_or(line).trim().to_owned();
        if !all.contains(&message) {
            all.push(message);
        }
    }
    all.truncate(LINES);
    all
}

/// True if it tells that a file system can't have id-mapped mounts.
pub fn lacks_idmapped_mounts(log: &str) -> bool {
    log.lines().any(|l| {
        let l = l.to_ascii_lowercase();
        l.contains("idmap") && (l.contains("invalid argument") || l.contains("not supported"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
lxc c1 20261125154122.101 WARN     conf - ../src/lxc/conf.c:lxc_map_ids:3621 - newuidmap binary is missing
lxc c1 20261125154122.201 ERROR    utils - ../src/lxc/utils.c:mkdir_p:261 - Permission denied - Failed to create \"/x\"
lxc c1 20261125154122.202 ERROR    start - ../src/lxc/start.c:lxc_spawn:1761 - Failed to spawn
lxc c1 20261125154122.203 ERROR    start - ../src/lxc/start.c:lxc_spawn:1761 - Failed to spawn
";

    #[test]
    fn only_the_messages_of_errors_are_told_once() {
        assert_eq!(reasons(LOG), ["Permission denied - Failed to create \"/x\"", "Failed to spawn"]);
        assert!(reasons("").is_empty() && !lacks_idmapped_mounts(LOG));
    }
}
