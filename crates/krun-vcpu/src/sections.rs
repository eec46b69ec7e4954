//! The form of saved state: a magic, a version, then sections of a number, a length and as many bytes. Little-endian.

use crate::error::StateError;

const HEADER: usize = 12;

/// One kind of state.
pub(crate) struct Format {
    pub(crate) name: &'static str,
    pub(crate) magic: [u8; 8],
    pub(crate) version: u32,
    /// The names of its sections, for error messages; a section's number is its place here.
    pub(crate) sections: &'static [&'static str],
}

/// Writes sections.
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn new(format: &Format) -> Self {
        let mut bytes = format.magic.to_vec();
        bytes.extend_from_slice(&format.version.to_le_bytes());
        Self(bytes)
    }

    /// Adds a section. Longer ones than a length can say are cut, which their reader then refuses; no state is near it.
    pub(crate) fn section(&mut self, number: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        self.0.extend_from_slice(&number.to_le_bytes());
        self.0.extend_from_slice(&length.to_le_bytes());
        self.0.extend(payload.iter().take(length as usize));
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// The sections found, by number; borrowed from the input.
#[derive(Debug)]
pub(crate) struct Sections<'a> {
    names: &'static [&'static str],
    found: Vec<Option<&'a [u8]>>,
}

impl<'a> Sections<'a> {
    /// Splits `bytes`. Every section must be known and occur once at most.
    pub(crate) fn read(format: &Format, bytes: &'a [u8]) -> Result<Self, StateError> {
        let Some((header, mut rest)) = bytes.split_at_checked(HEADER) else {
            return Err(StateError::Magic(format.name));
        };
        let Some(version) = header.strip_prefix(&format.magic) else { return Err(StateError::Magic(format.name)) };
        let found = number(version);
        if found != format.version {
            return Err(StateError::Version { found, known: format.version });
        }
        let mut sections = Self { names: format.sections, found: vec![None; format.sections.len()] };
        while !rest.is_empty() {
            let Some((head, tail)) = rest.split_at_checked(8) else {
                return Err(StateError::Length(missing(8, rest.len()), "header"));
            };
            let (tag, length) = head.split_at(4);
            let tag = number(tag);
            let length = number(length) as usize;
            let index = usize::try_from(tag).unwrap_or(usize::MAX);
            let (Some(slot), Some(name)) = (sections.found.get_mut(index), format.sections.get(index)) else {
                return Err(StateError::Unknown(tag));
            };
            if slot.is_some() {
                return Err(StateError::Twice(name));
            }
            let Some((payload, tail)) = tail.split_at_checked(length) else {
                return Err(StateError::Length(missing(length, tail.len()), name));
            };
            *slot = Some(payload);
            rest = tail;
        }
        Ok(sections)
    }

    /// The bytes of a section, if it is there.
    pub(crate) fn get(&self, number: u32) -> Option<&'a [u8]> {
        self.found.get(number as usize).copied().flatten()
    }

    /// The bytes of a section that must be there.
    pub(crate) fn require(&self, number: u32) -> Result<&'a [u8], StateError> {
        self.get(number).ok_or(StateError::Missing(self.name(number)))
    }

    /// The name of a section.
    pub(crate) fn name(&self, number: u32) -> &'static str {
        self.names.get(number as usize).copied().unwrap_or("unknown")
    }
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

fn missing(wanted: usize, there: usize) -> u64 {
    wanted.abs_diff(there) as u64
}
