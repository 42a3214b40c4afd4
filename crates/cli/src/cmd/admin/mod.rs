//! `incus admin`: what concerns the daemon itself.

mod cluster;
mod daemon;
mod init;
pub mod join;
mod preseed;
mod questions;
mod sql;

family! {
    /// Manage the daemon
    Admin {
        Cluster(cluster::Cluster),
        Init(init::Init),
        Shutdown(daemon::Shutdown),
        Sql(sql::Sql),
        #[command(name = "waitready")]
        WaitReady(daemon::WaitReady),
    }
}
