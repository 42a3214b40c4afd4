//! Moving an instance to another member, pool or project.

use std::sync::Arc;

use api::instance::InstancePost;
use api::{Error, Kind, Result};

use crate::edge::Cx;
use crate::instances::Loaded;
use crate::operations::Operation;

/// `POST /1.0/instances/{name}` with `migration`.
pub async fn post(_: Cx, _: Loaded, _: InstancePost) -> Result<Arc<Operation>> {
    Err(Error::new(Kind::NotImplemented, "Instances can't be moved by this version yet"))
}
