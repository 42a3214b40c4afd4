//! How values that are not plain text or numbers lie in columns: times, and names kept as numbers.

use api::{Error, Result};
use jiff::Timestamp;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};

/// A time as RFC 3339 with nine digits of a second, so that times sort as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Time(pub Timestamp);

impl ToSql for Time {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(format!("{:.9}", self.0).into())
    }
}

impl FromSql for Time {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_str()?.parse().map(Time).map_err(FromSqlError::other)
    }
}

/// A time that may never have been.
pub(crate) fn maybe(time: Option<Timestamp>) -> Option<Time> {
    time.map(Time)
}

/// Reads a time.
pub(crate) fn time(row: &rusqlite::Row<'_>, column: &str) -> rusqlite::Result<Timestamp> {
    row.get::<_, Time>(column).map(|t| t.0)
}

/// Reads a time that may never have been.
pub(crate) fn maybe_time(row: &rusqlite::Row<'_>, column: &str) -> rusqlite::Result<Option<Timestamp>> {
    Ok(row.get::<_, Option<Time>>(column)?.map(|t| t.0))
}

/// Declares an enum whose values lie in the database as the numbers that Incus gives them.
macro_rules! codes {
    ($(#[$doc:meta])* $name:ident, $what:literal { $($(#[$vdoc:meta])* $variant:ident = $code:literal, $text:literal;)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// All values.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The number in the database.
            pub const fn code(self) -> i64 {
                match self { $(Self::$variant => $code),+ }
            }

            /// What clients see.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// The value that a number stands for.
            pub fn from_code(code: i64) -> Option<Self> {
                Self::ALL.iter().copied().find(|v| v.code() == code)
            }

            /// The value that clients write as `text`; anything unknown is refused.
            pub fn parse(text: &str) -> api::Result<Self> {
                Self::ALL.iter().copied().find(|v| v.as_str() == text)
                    .ok_or_else(|| api::Error::bad_request(format!(concat!("Invalid ", $what, " \"{}\""), text)))
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl rusqlite::types::ToSql for $name {
            fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
                Ok(self.code().into())
            }
        }

        impl rusqlite::types::FromSql for $name {
            fn column_result(value: rusqlite::types::ValueRef<'_>) -> rusqlite::types::FromSqlResult<Self> {
                let code = value.as_i64()?;
                Self::from_code(code).ok_or(rusqlite::types::FromSqlError::OutOfRange(code))
            }
        }
    };
}
pub(crate) use codes;

codes! {
    /// A processor architecture.
    Architecture, "architecture" {
        /// Not known.
        Unknown = 0, "unknown";
        /// 32-bit x86.
        I686 = 1, "i686";
        /// 64-bit x86.
        X86_64 = 2, "x86_64";
        /// 32-bit ARM, version 7.
        Armv7l = 3, "armv7l";
        /// 64-bit ARM.
        Aarch64 = 4, "aarch64";
        /// 32-bit PowerPC.
        Ppc = 5, "ppc";
        /// 64-bit PowerPC.
        Ppc64 = 6, "ppc64";
        /// 64-bit PowerPC, little-endian.
        Ppc64le = 7, "ppc64le";
        /// IBM Z.
        S390x = 8, "s390x";
        /// 32-bit MIPS.
        Mips = 9, "mips";
        /// 64-bit MIPS.
        Mips64 = 10, "mips64";
        /// 32-bit RISC-V.
        Riscv32 = 11, "riscv32";
        /// 64-bit RISC-V.
        Riscv64 = 12, "riscv64";
        /// 32-bit ARM, version 6.
        Armv6l = 13, "armv6l";
        /// 32-bit personality of 64-bit ARM.
        Armv8l = 14, "armv8l";
        /// 64-bit LoongArch.
        Loongarch64 = 15, "loongarch64";
    }
}

impl Architecture {
    /// As [`Architecture::parse`], and understands the names that distributions use (`amd64`, `arm64`).
    pub fn parse_any(text: &str) -> Result<Architecture> {
        Ok(match text {
            "i386" | "i586" | "386" | "x86" | "generic_32" => Architecture::I686,
            "amd64" | "generic_64" => Architecture::X86_64,
            "armel" | "arm" => Architecture::Armv6l,
            "armhf" | "armhfp" | "armv7" => Architecture::Armv7l,
            "arm64" | "arm64_generic" => Architecture::Aarch64,
            "powerpc" => Architecture::Ppc,
            "powerpc64" => Architecture::Ppc64,
            "ppc64el" => Architecture::Ppc64le,
            "loong64" => Architecture::Loongarch64,
            other => Architecture::parse(other)
                .map_err(|_| Error::bad_request(format!("Architecture isn't supported: {other}")))?,
        })
    }
}

codes! {
    /// What runs an instance, and for which kind an image is.
    InstanceType, "instance type" {
        /// A system container.
        Container = 0, "container";
        /// A virtual machine.
        VirtualMachine = 1, "virtual-machine";
    }
}

codes! {
    /// How far a pool or network is, on a member or altogether.
    Progress, "state" {
        /// Announced, not created yet.
        Pending = 0, "Pending";
        /// Created.
        Created = 1, "Created";
        /// Creating it failed.
        Errored = 2, "Errored";
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn times_sort_as_text_and_come_back() {
        let times = ["0001-01-01T00:00:00Z", "2026-11-24T02:07:42.4Z", "2026-11-24T02:07:42.487544645Z"];
        let c = rusqlite::Connection::open_in_memory().unwrap();
        let stored = times.map(|t| {
            let t: Timestamp = t.parse().unwrap();
            assert_eq!(c.query_row("SELECT ?1", [Time(t)], |r| r.get::<_, Time>(0)).unwrap(), Time(t));
            c.query_row("SELECT ?1", [Time(t)], |r| r.get::<_, String>(0)).unwrap()
        });
        assert!(stored.is_sorted());
        assert_eq!(stored[1], "2026-11-24T02:07:42.400000000Z");
    }

    #[test]
    fn architectures_have_many_names() {
        for (text, want) in [
            ("x86_64", Ok(Architecture::X86_64)),
            ("amd64", Ok(Architecture::X86_64)),
            ("arm64", Ok(Architecture::Aarch64)),
            ("z80", Err(Error::bad_request("Architecture isn't supported: z80"))),
        ] {
            assert_eq!(Architecture::parse_any(text), want);
        }
        assert!(Architecture::ALL.iter().all(|a| Architecture::from_code(a.code()) == Some(*a)));
    }
}
