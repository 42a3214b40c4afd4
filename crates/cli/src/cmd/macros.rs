//! What families of commands are made of.

/// Declares a family of commands: an enum of its members, and `run`, which carries out the one that was named.
macro_rules! family {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident($type:ty)),* $(,)? }) => {
        $(#[$meta])*
        #[derive(clap::Subcommand)]
        #[command(arg_required_else_help = true)]
        pub enum $name { $($(#[$vmeta])* $variant($type)),* }

        impl $name {
            /// Carries out the command.
            pub async fn run(self, ctx: &crate::ctx::Ctx) -> api::Result<()> {
                match self { $(Self::$variant(c) => Box::pin(c.run(ctx)).await),* }
            }
        }
    };
}

/// Declares the columns of a list: letter, header and what stands in it.
macro_rules! columns {
    ($($letter:literal $header:literal $cell:expr;)*) => {
        &[$(crate::output::Column { letter: $letter, header: $header, cell: $cell }),*]
    };
}

/// Declares `show`, `get`, `set`, `unset` and `edit` of a thing with a configuration.
///
/// `$entity` is an async function from the context, the name given and the `--target` to an [`Entity`].
///
/// [`Entity`]: crate::entity::Entity
macro_rules! entity_commands {
    ($noun:literal, $value:literal, $entity:path, $edit:expr) => {
        #[doc = "Show a thing."]
        #[derive(clap::Args)]
        #[command(about = concat!("Show a ", $noun, " as YAML"), long_about = None)]
        pub struct Show {
            #[arg(value_name = $value)]
            name: String,
            /// Cluster member name
            #[arg(long)]
            target: Option<String>,
        }
        impl Show {
            pub async fn run(self, ctx: &crate::ctx::Ctx) -> api::Result<()> {
                $entity(ctx, &self.name, self.target.as_deref()).await?.show().await
            }
        }

        #[doc = "Get a key."]
        #[derive(clap::Args)]
        #[command(about = concat!("Get the value of a configuration key of a ", $noun), long_about = None)]
        pub struct Get {
            #[arg(value_name = $value)]
            name: String,
            key: String,
            /// The key is a property, not a configuration key
            #[arg(short, long)]
            property: bool,
            /// Cluster member name
            #[arg(long)]
            target: Option<String>,
        }
        impl Get {
            pub async fn run(self, ctx: &crate::ctx::Ctx) -> api::Result<()> {
                $entity(ctx, &self.name, self.target.as_deref()).await?.get(&self.key, self.property).await
            }
        }

        #[doc = "Set keys."]
        #[derive(clap::Args)]
        #[command(about = concat!("Set configuration keys of a ", $noun), long_about = None)]
        pub struct Set {
            #[arg(value_name = $value)]
            name: String,
            #[arg(required = true, value_name = "key>=<value")]
            settings: Vec<String>,
            /// The keys are properties, not configuration keys
            #[arg(short, long)]
            property: bool,
            /// Cluster member name
            #[arg(long)]
            target: Option<String>,
        }
        impl Set {
            pub async fn run(self, ctx: &crate::ctx::Ctx) -> api::Result<()> {
                let pairs = crate::keyval::settings(&self.settings)?;
                $entity(ctx, &self.name, self.target.as_deref()).await?.set(&pairs, self.property).await
            }
        }

        #[doc = "Unset keys."]
        #[derive(clap::Args)]
        #[command(about = concat!("Unset configuration keys of a ", $noun), long_about = None)]
        pub struct Unset {
            #[arg(value_name = $value)]
            name: String,
            #[arg(required = true, value_name = "key")]
            keys: Vec<String>,
            /// The keys are properties, not configuration keys
            #[arg(short, long)]
            property: bool,
            /// Cluster member name
            #[arg(long)]
            target: Option<String>,
        }
        impl Unset {
            pub async fn run(self, ctx: &crate::ctx::Ctx) -> api::Result<()> {
                $entity(ctx, &self.name, self.target.as_deref()).await?.unset(&self.keys, self.property).await
            }
        }

        #[doc = "Edit a thing."]
        #[derive(clap::Args)]
        #[command(
                            about = concat!("Edit a ", $noun, " as YAML"),
                            long_about = concat!("Edit a ", $noun, " as YAML, in an editor or from standard input")
                        )]
        pub struct Edit {
            #[arg(value_name = $value)]
            name: String,
            /// Cluster member name
            #[arg(long)]
            target: Option<String>,
        }
        impl Edit {
            pub async fn run(self, ctx: &crate::ctx::Ctx) -> api::Result<()> {
                $entity(ctx, &self.name, self.target.as_deref()).await?.edit($edit).await
            }
        }
    };
}
