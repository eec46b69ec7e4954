//! How structures are declared, read and written.

/// Declares a wire structure: fields in order, no padding but what is named, a size that is checked.
macro_rules! wire {
    ($(#[$doc:meta])* $name:ident: $size:literal { $($(#[$fdoc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name { $($(#[$fdoc])* pub $field: $type,)* }

        impl $name {
            /// Size on the wire, in bytes.
            pub const SIZE: usize = $size;

            /// Reads the structure from its bytes.
            #[must_use]
            pub fn decode(bytes: &[u8; $size]) -> Self {
                let mut at = $crate::abi::wire::Fields(bytes);
                Self { $($field: <$type as $crate::abi::wire::Field>::get(&mut at),)* }
            }

            /// The structure's bytes.
            #[must_use]
            pub fn encode(&self) -> [u8; $size] {
                let mut bytes = [0; $size];
                let mut at = $crate::abi::wire::FieldsMut(&mut bytes);
                $($crate::abi::wire::Field::put(&self.$field, &mut at);)*
                bytes
            }
        }

        const _: () = assert!($size == 0 $(+ <$type as $crate::abi::wire::Field>::WIDTH)*);
    };
}

/// Where the next field is read.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);
/// Where the next field is written.
pub(super) struct FieldsMut<'a>(pub(super) &'a mut [u8]);

/// What a structure may be made of.
pub(super) trait Field: Sized {
    const WIDTH: usize;
    fn get(at: &mut Fields<'_>) -> Self;
    fn put(&self, at: &mut FieldsMut<'_>);
}

macro_rules! integer_field {
    ($($type:ty),*) => {$(
        impl Field for $type {
            const WIDTH: usize = size_of::<Self>();
            #[inline]
            fn get(at: &mut Fields<'_>) -> Self {
                // The sizes are checked at compile time: there always is a chunk.
                let Some((field, rest)) = at.0.split_first_chunk() else { return 0 };
                at.0 = rest;
                Self::from_le_bytes(*field)
            }
            #[inline]
            fn put(&self, at: &mut FieldsMut<'_>) {
                if let Some((field, rest)) = std::mem::take(&mut at.0).split_first_chunk_mut() {
                    *field = self.to_le_bytes();
                    at.0 = rest;
                }
            }
        }
    )*};
}
integer_field!(u16, u32, u64, i32, i64);

impl<const N: usize> Field for [u64; N] {
    const WIDTH: usize = 8 * N;
    fn get(at: &mut Fields<'_>) -> Self {
        std::array::from_fn(|_| u64::get(at))
    }
    fn put(&self, at: &mut FieldsMut<'_>) {
        self.iter().for_each(|field| field.put(at));
    }
}

/// Makes a structure a field of others.
macro_rules! nested_field {
    ($($type:ty),*) => {$(
        impl $crate::abi::wire::Field for $type {
            const WIDTH: usize = Self::SIZE;
            #[inline]
            fn get(at: &mut $crate::abi::wire::Fields<'_>) -> Self {
                let Some((field, rest)) = at.0.split_first_chunk() else { return Self::default() };
                at.0 = rest;
                Self::decode(field)
            }
            #[inline]
            fn put(&self, at: &mut $crate::abi::wire::FieldsMut<'_>) {
                if let Some((field, rest)) = std::mem::take(&mut at.0).split_first_chunk_mut() {
                    *field = self.encode();
                    at.0 = rest;
                }
            }
        }
    )*};
}

pub(super) use {nested_field, wire};
