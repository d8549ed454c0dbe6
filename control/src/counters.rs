//! What was refused or ignored: one list gives the counters, their documentation and their names in reports.

/// Makes a struct of counters. Their names in reports are those of its fields after this prefix.
macro_rules! counters {
    ($(#[doc = $doc:literal])+ $name:ident, $prefix:literal {
        $($(#[doc = $of_field:literal])+ $field:ident,)+
    }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct $name {
            $($(#[doc = $of_field])+ pub $field: u64,)+
        }

        impl $name {
            /// By the names that operators see.
            pub fn entries(self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((concat!($prefix, stringify!($field)), self.$field),)+].into_iter()
            }
        }
    };
}

pub(crate) use counters;
