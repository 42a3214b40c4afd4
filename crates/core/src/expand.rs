//! What an instance is with its profiles: they apply in their order, its own configuration and devices come last.

use api::key::Config;
use api::profile::Devices;

/// The configuration and the devices of an instance with what its profiles add.
pub fn expand<'a>(
    profiles: impl IntoIterator<Item = (&'a Config, &'a Devices)>,
    own: (&'a Config, &'a Devices),
) -> (Config, Devices) {
    let mut all = (Config::new(), Devices::new());
    for (config, devices) in profiles.into_iter().chain([own]) {
        all.0.extend(config.iter().map(|(k, v)| (k.clone(), v.clone())));
        // A device replaces one of the same name as a whole.
        all.1.extend(devices.iter().map(|(k, v)| (k.clone(), v.clone())));
    }
    all
}

/// True for keys that say what an instance was and is, rather than what it should be.
pub fn is_volatile(key: &str) -> bool {
    key.starts_with("volatile.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pairs: &[(&str, &str)]) -> Config {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn later_profiles_win_and_the_instance_wins_over_all() {
        let device = |pairs: &[(&str, &str)]| Devices::from([("root".to_owned(), config(pairs))]);
        let first = (config(&[("a", "1"), ("b", "1"), ("c", "1")]), device(&[("type", "disk"), ("size", "1GiB")]));
        let second = (config(&[("b", "2"), ("c", "2")]), device(&[("type", "disk"), ("pool", "p")]));
        let own = (config(&[("c", "3")]), Devices::new());
        let (expanded, devices) = expand([(&first.0, &first.1), (&second.0, &second.1)], (&own.0, &own.1));
        assert_eq!(expanded, config(&[("a", "1"), ("b", "2"), ("c", "3")]));
        assert_eq!(devices, second.1, "a device is replaced as a whole");
    }
}
