//! `/1.0/networks`.
//!
//! A network is a row, and a place on each member. The row needs a majority and no member in particular: each member
//! makes its own place when it sees the row, at once or when it is back, and takes it down when the row is gone.

mod change;
mod follow;
mod made;
mod show;

use api::Result;
use db::Tx;
use db::networks::Network;
use db::projects::Feature;

pub use change::only_members_own;
pub use follow::{Places, define_on_joiner, follow, forget_all, questions, start};

use crate::edge::Router;

pub fn routes(r: &mut Router) {
    r.list(&api::network::LIST, show::list);
    r.sync(&api::network::CREATE, change::create);
    r.sync(&api::network::GET, show::get);
    r.sync(&api::network::PUT, change::put);
    r.sync(&api::network::PATCH, change::patch);
    r.sync(&api::network::RENAME, change::rename);
    r.sync(&api::network::DELETE, change::delete);
    r.sync(&api::network::STATE, show::state);
    r.sync(&api::network::LEASES, show::leases);
}

/// The network that is called so in a project.
fn named(tx: &Tx<'_>, project: &str, name: &str) -> Result<Network> {
    db::networks::get(tx, &db::projects::holder(tx, project, Feature::Networks)?, name)
}
