//! The FUSE wire format: `include/uapi/linux/fuse.h`, protocol 7.39, little-endian hosts and guests.
//!
//! Every structure has the name of its C counterpart without `fuse_`, and knows its size. Decoding copies: what a
//! guest may change under us is read once.

/// Protocol version that this server speaks.
pub const MAJOR: u32 = 7;
/// The newest minor version whose messages are all understood.
pub const MINOR: u32 = 39;
/// The oldest minor version of a client that is served (Linux 4.20).
pub const MIN_MINOR: u32 = 28;
/// Node id of the root directory.
pub const ROOT_ID: u64 = 1;
/// The longest file name, without its NUL.
pub const NAME_MAX: usize = 255;

mod attr;
mod file;
mod flags;
mod header;
mod name;
mod opcode;
mod wire;

pub use attr::*;
pub use file::*;
pub use flags::*;
pub use header::*;
pub use name::*;
pub use opcode::Opcode;

#[cfg(test)]
mod tests {
    use super::*;

    /// Offset of a field: where the only byte that is not zero lies.
    fn offset(bytes: &[u8]) -> usize {
        let at = bytes.iter().position(|b| *b != 0).expect("a field is set");
        assert_eq!(bytes.iter().filter(|b| **b != 0).count(), 1);
        at
    }

    #[test]
    fn sizes_are_the_kernels() {
        // Of `pahole fuse`: the C structures of the same names.
        let sizes = [
            (InHeader::SIZE, 40),
            (OutHeader::SIZE, 16),
            (Attr::SIZE, 88),
            (EntryOut::SIZE, 128),
            (AttrOut::SIZE, 104),
            (Dirent::SIZE, 24),
            (DirentPlus::SIZE, 152),
            (SetattrIn::SIZE, 88),
            (CreateIn::SIZE, 16),
            (OpenOut::SIZE, 16),
            (ReadIn::SIZE, 40),
            (WriteIn::SIZE, 40),
            (Kstatfs::SIZE, 80),
            (LkIn::SIZE, 48),
            (InitIn::SIZE + InitExtIn::SIZE, 64),
            (InitOut::SIZE, 64),
            (CopyFileRangeIn::SIZE, 56),
            (Statx::SIZE, 256),
            (StatxOut::SIZE, 288),
        ];
        for (i, (ours, theirs)) in sizes.into_iter().enumerate() {
            assert_eq!(ours, theirs, "row {i}");
        }
    }

    #[test]
    fn offsets_are_the_kernels() {
        assert_eq!(offset(&InHeader { nodeid: 1, ..Default::default() }.encode()), 16);
        assert_eq!(offset(&InHeader { pid: 1, ..Default::default() }.encode()), 32);
        assert_eq!(offset(&InHeader { total_extlen: 1, ..Default::default() }.encode()), 36);
        assert_eq!(offset(&Attr { atimensec: 1, ..Default::default() }.encode()), 48);
        assert_eq!(offset(&Attr { mode: 1, ..Default::default() }.encode()), 60);
        assert_eq!(offset(&Attr { rdev: 1, ..Default::default() }.encode()), 76);
        let attr = Attr { ino: 1, ..Default::default() };
        assert_eq!(offset(&EntryOut { attr, ..Default::default() }.encode()), 40);
        assert_eq!(offset(&AttrOut { attr, ..Default::default() }.encode()), 16);
        assert_eq!(offset(&SetattrIn { atimensec: 1, ..Default::default() }.encode()), 56);
        assert_eq!(offset(&SetattrIn { mode: 1, ..Default::default() }.encode()), 68);
        assert_eq!(offset(&SetattrIn { uid: 1, ..Default::default() }.encode()), 76);
        assert_eq!(offset(&InitOut { max_write: 1, ..Default::default() }.encode()), 20);
        assert_eq!(offset(&InitOut { max_pages: 1, ..Default::default() }.encode()), 28);
        assert_eq!(offset(&InitOut { flags2: 1, ..Default::default() }.encode()), 32);
        assert_eq!(offset(&Kstatfs { frsize: 1, ..Default::default() }.encode()), 48);
        assert_eq!(offset(&Statx { ino: 1, ..Default::default() }.encode()), 32);
        assert_eq!(offset(&Statx { dev_minor: 1, ..Default::default() }.encode()), 140);
        assert_eq!(offset(&LkIn { lk_flags: 1, ..Default::default() }.encode()), 40);
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        let bytes: [u8; InHeader::SIZE] = std::array::from_fn(|i| u8::try_from(i + 1).expect("small"));
        assert_eq!(InHeader::decode(&bytes).encode(), bytes);
        let bytes: [u8; StatxOut::SIZE] = std::array::from_fn(|i| u8::try_from(i % 251).expect("small"));
        assert_eq!(StatxOut::decode(&bytes).encode(), bytes);
    }

    #[test]
    fn opcodes_have_their_numbers() {
        for op in Opcode::ALL {
            assert_eq!(Opcode::new(*op as u32), Some(*op));
        }
        for unknown in [0, 7, 19, 53, 4096, u32::MAX] {
            assert_eq!(Opcode::new(unknown), None);
        }
    }
}
