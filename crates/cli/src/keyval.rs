//! `key=value` on the command line.

use api::{Error, Result};
use serde_json::{Map, Value};

/// Reads `key=value…` as a map; `what` names the wrong ones in the error.
pub fn pairs(args: &[String]) -> Result<Vec<(String, String)>> {
    args.iter()
        .map(|arg| {
            let (key, value) =
                arg.split_once('=').ok_or_else(|| Error::bad_request(format!("Bad key=value pair: {arg}")))?;
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect()
}

/// The same as a JSON object.
pub fn object(args: &[String]) -> Result<Map<String, Value>> {
    Ok(pairs(args)?.into_iter().map(|(k, v)| (k, Value::String(v))).collect())
}

/// What `set` takes: `key=value…`, or `key value` as it was long ago (with a warning).
/// A value of `-` is read from standard input.
pub fn settings(args: &[String]) -> Result<Vec<(String, String)>> {
    let mut all = match args {
        [key, value] if !key.contains('=') => {
            eprintln!("Warning: the “<key> <value>” syntax is deprecated; please switch to the “<key>=<value>” syntax");
            vec![(key.clone(), value.clone())]
        }
        args => args
            .iter()
            .map(|arg| {
                let (key, value) = arg
                    .split_once('=')
                    .ok_or_else(|| Error::bad_request(format!("Invalid key=value configuration: {arg}")))?;
                Ok((key.to_owned(), value.to_owned()))
            })
            .collect::<Result<_>>()?,
    };
    for (_, value) in &mut all {
        if value == "-" {
            *value = std::io::read_to_string(std::io::stdin())?;
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_setting_a_key() {
        let settings_of = |args: &[&str]| {
            let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
            settings(&args).map_err(|e| e.message)
        };
        let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        assert_eq!(settings_of(&["a", "b"]), Ok(vec![pair("a", "b")]));
        assert_eq!(settings_of(&["a=b", "c=d=e", "f="]), Ok(vec![pair("a", "b"), pair("c", "d=e"), pair("f", "")]));
        assert_eq!(settings_of(&["a"]), Err("Invalid key=value configuration: a".into()));
        assert_eq!(settings_of(&["a=b", "c"]), Err("Invalid key=value configuration: c".into()));
    }
}
