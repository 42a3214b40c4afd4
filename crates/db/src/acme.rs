//! What the cluster has with an authority that speaks ACME: its account, and the answers to the challenges that are open.
//! Any member answers them, and any member that leads goes on with the account.

use std::collections::BTreeMap;
use std::fmt;

use api::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config;
use crate::tx::Tx;

const ACCOUNT: &str = "internal.acme_account";
const CHALLENGES: &str = "internal.acme_challenges";

/// An account.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// The directory of the authority.
    pub url: String,
    /// The address that it was made for.
    pub email: String,
    /// What proves that it is ours; never shown to anybody.
    pub credentials: Value,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Account({} with {})", self.email, self.url)
    }
}

/// The account, if there is one.
pub fn account(tx: &Tx<'_>) -> Result<Option<Account>> {
    read(tx, ACCOUNT)
}

/// Keeps an account in the place of another one.
pub fn set_account(tx: &Tx<'_>, account: &Account) -> Result<()> {
    write(tx, ACCOUNT, account)
}

/// What is answered, by token.
pub fn challenges(tx: &Tx<'_>) -> Result<BTreeMap<String, String>> {
    Ok(read(tx, CHALLENGES)?.unwrap_or_default())
}

/// Answers these challenges and no others.
pub fn set_challenges(tx: &Tx<'_>, challenges: &BTreeMap<String, String>) -> Result<()> {
    if challenges.is_empty() { config::set(tx, CHALLENGES, None) } else { write(tx, CHALLENGES, challenges) }
}

fn read<T: DeserializeOwned>(tx: &Tx<'_>, key: &str) -> Result<Option<T>> {
    let unreadable = |_| Error::internal(format!("{key} in the database is unreadable"));
    config::value(tx, key)?.map(|text| serde_json::from_str(&text).map_err(unreadable)).transpose()
}

fn write(tx: &Tx<'_>, key: &str, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(value).map_err(|e| Error::internal(e.to_string()))?;
    config::set(tx, key, Some(&text))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tx::tests::database;

    #[test]
    fn it_is_kept_and_is_no_configuration() {
        let c = database();
        let tx = Tx(&c);
        assert_eq!((account(&tx).unwrap(), challenges(&tx).unwrap()), (None, BTreeMap::new()));
        let ours = Account { url: "https://ca".into(), email: "a@b".into(), credentials: "SECRET".into() };
        set_account(&tx, &ours).unwrap();
        let open = [("token".to_owned(), "token.print".to_owned())].into();
        set_challenges(&tx, &open).unwrap();
        assert_eq!((account(&tx).unwrap(), challenges(&tx).unwrap()), (Some(ours.clone()), open));
        assert!(config::get(&tx).unwrap().is_empty() && !format!("{ours:?}").contains("SECRET"));
        set_challenges(&tx, &BTreeMap::new()).unwrap();
        assert!(challenges(&tx).unwrap().is_empty());
    }
}
