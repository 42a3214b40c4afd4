//! `incus cluster`: members, groups, roles, tokens.

mod add;
mod enable;
mod group;
mod list;
mod member;
mod role;
mod state;
mod tokens;

pub use add::member_config;
#[cfg(test)]
pub use group::COLUMNS as GROUP_COLUMNS;
#[cfg(test)]
pub use list::COLUMNS as MEMBER_COLUMNS;
pub use tokens::flatten;

family! {
    /// Manage cluster members
    Cluster {
        Add(add::Add),
        Edit(member::Edit),
        Enable(enable::Enable),
        #[command(visible_alias = "evac")]
        Evacuate(state::Evacuate),
        Get(member::Get),
        #[command(subcommand)]
        Group(group::Group),
        Info(member::Info),
        Join(add::Join),
        #[command(visible_alias = "ls")]
        List(list::List),
        ListTokens(tokens::ListTokens),
        #[command(visible_aliases = ["delete", "rm"])]
        Remove(member::Remove),
        #[command(visible_alias = "mv")]
        Rename(member::Rename),
        Restore(state::Restore),
        RevokeToken(tokens::RevokeToken),
        #[command(subcommand)]
        Role(role::Role),
        Set(member::Set),
        Show(member::Show),
        Unset(member::Unset),
        #[command(visible_alias = "update-cert")]
        UpdateCertificate(enable::UpdateCertificate),
    }
}
