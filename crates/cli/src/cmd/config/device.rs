//! Devices of instances (`incus config device`) and of profiles (`incus profile device`).

use api::{Error, Result};
use serde_json::{Map, Value};

use super::INSTANCE_FIELDS;
use crate::{cmd::path, ctx::Ctx, entity::as_text, keyval, output::to_yaml, server::Server};

/// What has devices.
struct Owner<'a> {
    ctx: &'a Ctx,
    server: Server,
    path: String,
    name: String,
    value: Value,
    etag: Option<String>,
    fields: &'static [&'static str],
}

impl<'a> Owner<'a> {
    async fn open(ctx: &'a Ctx, text: &str, template: &str, fields: &'static [&'static str]) -> Result<Owner<'a>> {
        let (server, name) =
            ctx.open_named(text, if template.contains("profiles") { "profile name" } else { "instance name" })?;
        let path = path(template, &[&name]);
        let reply = server.get(&path).await?;
        Ok(Owner { ctx, server, path, name, value: reply.value, etag: reply.etag, fields })
    }

    async fn instance(ctx: &'a Ctx, text: &str) -> Result<Owner<'a>> {
        Self::open(ctx, text, "/1.0/instances/{name}", INSTANCE_FIELDS).await
    }

    async fn profile(ctx: &'a Ctx, text: &str) -> Result<Owner<'a>> {
        Self::open(ctx, text, "/1.0/profiles/{name}", &["config", "description", "devices"]).await
    }

    fn devices(&mut self) -> Result<&mut Map<String, Value>> {
        if self.value["devices"].is_null() {
            self.value["devices"] = Value::Object(Map::new());
        }
        self.value["devices"].as_object_mut().ok_or_else(|| Error::internal("The server's answer holds no devices"))
    }

    fn device(&mut self, name: &str) -> Result<&mut Map<String, Value>> {
        let inherited = self.value["expanded_devices"].get(name).is_some();
        match self.devices()?.get_mut(name).and_then(Value::as_object_mut) {
            Some(device) => Ok(device),
            None if inherited => Err(Error::bad_request(
                "Device from profile(s) cannot be modified for individual instance. Override device or modify profile instead",
            )),
            None => Err(Error::not_found("Device doesn't exist")),
        }
    }

    async fn save(self) -> Result<()> {
        let Value::Object(map) = self.value else { return Err(Error::internal("The server's answer is not a map")) };
        let body = map.into_iter().filter(|(k, _)| self.fields.contains(&k.as_str())).collect();
        let reply = self.server.put(&self.path, &Value::Object(body), self.etag.as_deref()).await?;
        self.ctx.wait(&self.server, reply).await.map(drop)
    }

    async fn add(mut self, device: &str, kind: &str, settings: &[String]) -> Result<()> {
        let mut all = keyval::object(settings)?;
        all.insert("type".into(), kind.into());
        let devices = self.devices()?;
        if devices.contains_key(device) {
            return Err(Error::conflict("The device already exists"));
        }
        devices.insert(device.to_owned(), all.into());
        let (ctx, said) = (self.ctx, format!("Device {device} added to {}", self.name));
        self.save().await?;
        ctx.say(said);
        Ok(())
    }

    async fn remove(mut self, names: &[String]) -> Result<()> {
        for name in names {
            self.device(name)?;
            self.devices()?.shift_remove(name);
        }
        let (ctx, owner) = (self.ctx, self.name.clone());
        self.save().await?;
        for name in names {
            ctx.say(format!("Device {name} removed from {owner}"));
        }
        Ok(())
    }

    async fn set(mut self, device: &str, pairs: &[(String, String)]) -> Result<()> {
        let device = self.device(device)?;
        for (key, value) in pairs {
            if value.is_empty() {
                device.shift_remove(key);
            } else {
                device.insert(key.clone(), value.as_str().into());
            }
        }
        self.save().await
    }

    fn get(mut self, device: &str, key: &str) -> Result<()> {
        println!("{}", self.device(device)?.get(key).map(as_text).unwrap_or_default());
        Ok(())
    }

    fn list(mut self) -> Result<()> {
        for name in self.devices()?.keys() {
            println!("{name}");
        }
        Ok(())
    }

    fn show(self) -> Result<()> {
        println!("{}", to_yaml(&self.value["devices"]));
        Ok(())
    }
}

macro_rules! device_commands {
    ($family:ident, $doc:literal, $open:ident, $value:literal, $module:ident $(, $extra:ident)?) => {
        mod $module {
            use super::*;

            /// Add a device
            #[derive(clap::Args)]
            pub struct Add {
                #[arg(value_name = $value)]
                name: String,
                device: String,
                /// disk, nic, none, proxy, ...
                kind: String,
                #[arg(value_name = "key=value")]
                settings: Vec<String>,
            }
            impl Add {
                pub async fn run(self, ctx: &Ctx) -> Result<()> {
                    Owner::$open(ctx, &self.name).await?.add(&self.device, &self.kind, &self.settings).await
                }
            }

            /// Get the value of a device's key
            #[derive(clap::Args)]
            pub struct Get {
                #[arg(value_name = $value)]
                name: String,
                device: String,
                key: String,
            }
            impl Get {
                pub async fn run(self, ctx: &Ctx) -> Result<()> {
                    Owner::$open(ctx, &self.name).await?.get(&self.device, &self.key)
                }
            }

            /// List the names of the devices
            #[derive(clap::Args)]
            pub struct List {
                #[arg(value_name = $value)]
                name: String,
            }
            impl List {
                pub async fn run(self, ctx: &Ctx) -> Result<()> {
                    Owner::$open(ctx, &self.name).await?.list()
                }
            }

            /// Remove devices
            #[derive(clap::Args)]
            pub struct Remove {
                #[arg(value_name = $value)]
                name: String,
                #[arg(required = true, value_name = "device")]
                devices: Vec<String>,
            }
            impl Remove {
                pub async fn run(self, ctx: &Ctx) -> Result<()> {
                    Owner::$open(ctx, &self.name).await?.remove(&self.devices).await
                }
            }

            /// Set keys of a device
            #[derive(clap::Args)]
            pub struct Set {
                #[arg(value_name = $value)]
                name: String,
                device: String,
                #[arg(required = true, value_name = "key=value")]
                settings: Vec<String>,
            }
            impl Set {
                pub async fn run(self, ctx: &Ctx) -> Result<()> {
                    let pairs = keyval::settings(&self.settings)?;
                    Owner::$open(ctx, &self.name).await?.set(&self.device, &pairs).await
                }
            }

            /// Show the devices as YAML
            #[derive(clap::Args)]
            pub struct Show {
                #[arg(value_name = $value)]
                name: String,
            }
            impl Show {
                pub async fn run(self, ctx: &Ctx) -> Result<()> {
                    Owner::$open(ctx, &self.name).await?.show()
                }
            }

            /// Unset a key of a device
            #[derive(clap::Args)]
            pub struct Unset {
                #[arg(value_name = $value)]
                name: String,
                device: String,
                key: String,
            }
            impl Unset {
                pub async fn run(self, ctx: &Ctx) -> Result<()> {
                    Owner::$open(ctx, &self.name).await?.set(&self.device, &[(self.key, String::new())]).await
                }
            }
        }

        family! {
            #[doc = $doc]
            $family {
                Add($module::Add),
                Get($module::Get),
                #[command(visible_alias = "ls")]
                List($module::List),
                $($extra($extra),)?
                #[command(visible_aliases = ["delete", "rm"])]
                Remove($module::Remove),
                Set($module::Set),
                Show($module::Show),
                Unset($module::Unset),
            }
        }
    };
}

device_commands!(
    InstanceDevice,
    "Manage the devices of instances",
    instance,
    "[remote:]instance",
    of_instance,
    Override
);
device_commands!(ProfileDevice, "Manage the devices of profiles", profile, "[remote:]profile", of_profile);

/// Copy a device that comes from a profile to the instance, with other values
#[derive(clap::Args)]
pub struct Override {
    #[arg(value_name = "[remote:]instance")]
    name: String,
    device: String,
    #[arg(value_name = "key=value")]
    settings: Vec<String>,
}

impl Override {
    /// Overrides.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let mut owner = Owner::instance(ctx, &self.name).await?;
        if owner.devices()?.contains_key(&self.device) {
            return Err(Error::conflict("The device already exists"));
        }
        let inherited = owner.value["expanded_devices"].get(&self.device).and_then(Value::as_object).cloned();
        let mut device = inherited.ok_or_else(|| Error::not_found("The profile device doesn't exist"))?;
        device.extend(keyval::object(&self.settings)?);
        owner.devices()?.insert(self.device.clone(), device.into());
        let said = format!("Device {} overridden for {}", self.device, owner.name);
        owner.save().await?;
        ctx.say(said);
        Ok(())
    }
}
