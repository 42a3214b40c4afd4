//! `/1.0/cluster/members/{name}/motto`: what a later version could have more than this one, for tests of upgrades.

use api::Result;
use api::endpoint::{Allow::*, At, Sync};

use crate::edge::{Cx, Router};

api::endpoints! {
    /// Show the motto of a member.
    MOTTO = GET "/1.0/cluster/members/{name}/motto" -> Sync<String>, Trusted, At::Any, "next_motto";
    /// Set the motto of a member.
    MOTTO_PUT = PUT "/1.0/cluster/members/{name}/motto" (String) -> Sync<()>, Admin, At::Any, "next_motto";
}

pub fn routes(r: &mut Router) {
    r.sync(&MOTTO, get);
    r.sync(&MOTTO_PUT, put);
}

async fn get(cx: Cx, (): ()) -> Result<String> {
    let name = cx.arg(0).to_owned();
    cx.daemon.view(move |tx| db::next::motto(tx, db::members::id(tx, &name)?)).await
}

async fn put(cx: Cx, motto: String) -> Result<()> {
    let name = cx.arg(0).to_owned();
    cx.daemon.write(move |tx| db::next::set_motto(tx, db::members::id(tx, &name)?, &motto)).await
}
