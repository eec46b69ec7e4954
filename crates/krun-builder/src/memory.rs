//! Guest RAM as one value: the mappings, and vm-memory's view of them.

use std::path::PathBuf;

use rustix::fd::OwnedFd;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use crate::error::Error;
use crate::layout::Layout;
use crate::mapping::{self, Mapping};

/// What guest RAM is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RamBacking {
    /// Private anonymous memory: the fastest, and nobody else can see it.
    #[default]
    Anonymous,
    /// A sealed-size memfd, mapped shared: other processes (vhost-user back ends) can map it too.
    Memfd,
    /// A file of exactly the RAM's size, mapped shared. It is created, or emptied and grown.
    File(PathBuf),
}

/// The guest's RAM. It stays mapped for as long as somebody holds the value.
#[derive(Debug)]
pub struct GuestRam {
    // Before `mappings`: fields are dropped in order, and the view points into them.
    view: GuestMemoryMmap,
    mappings: Vec<Mapping>,
}

impl GuestRam {
    /// Reserves the layout's RAM. Pages come into being when they are touched, so more can be reserved than there is.
    ///
    /// # Errors
    ///
    /// [`Error::Memory`] when the host refuses the reservation, the memfd or the file.
    pub fn new(layout: &Layout, backing: &RamBacking) -> Result<Self, Error> {
        Self::from_file(layout, open(backing, layout.ram.size())?.as_ref())
    }

    /// As [`new`](Self::new), from what [`open`] made.
    pub(crate) fn from_file(layout: &Layout, file: Option<&OwnedFd>) -> Result<Self, Error> {
        let mut offset = 0;
        let mut mappings = Vec::new();
        let mut regions = Vec::new();
        for range in layout.ram.regions() {
            let len = range.end - range.start;
            let mapping = match file {
                None => Mapping::anonymous(len, range.start),
                Some(file) => Mapping::shared(file, offset, len, range.start),
            }
            .map_err(|source| Error::Memory { action: "reserve", size: len, source })?;
            offset += len;
            regions.push(GuestRegionMmap::new(region(&mapping)?, GuestAddress(range.start)).ok_or(Error::MemoryView)?);
            mappings.push(mapping);
        }
        let view = GuestMemoryMmap::from_regions(regions).map_err(|_| Error::MemoryView)?;
        Ok(Self { view, mappings })
    }

    /// Bytes of RAM.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.mappings.iter().map(|mapping| mapping.len() as u64).sum()
    }
}

impl GuestMemoryBackend for GuestRam {
    type R = GuestRegionMmap;

    fn num_regions(&self) -> usize {
        self.view.num_regions()
    }

    fn find_region(&self, addr: GuestAddress) -> Option<&GuestRegionMmap> {
        self.view.find_region(addr)
    }

    fn iter(&self) -> impl Iterator<Item = &GuestRegionMmap> {
        self.view.iter()
    }
}

fn region(mapping: &Mapping) -> Result<MmapRegion, Error> {
    mapping::region(mapping).map_err(|_| Error::MemoryView)
}

/// The file that RAM is a mapping of, of the right size; none for anonymous memory.
pub(crate) fn open(backing: &RamBacking, size: u64) -> Result<Option<OwnedFd>, Error> {
    use rustix::fs::{MemfdFlags, Mode, OFlags};
    let failed = |action| move |source: rustix::io::Errno| Error::Memory { action, size, source: source.into() };
    let file = match backing {
        RamBacking::Anonymous => return Ok(None),
        RamBacking::Memfd => {
            let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
            rustix::fs::memfd_create("krun-ram", flags).map_err(failed("create a memfd for"))?
        }
        RamBacking::File(path) => {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).map_err(failed("create the file for"))?
        }
    };
    rustix::fs::ftruncate(&file, size).map_err(failed("size the file for"))?;
    if *backing == RamBacking::Memfd {
        // A peer that shrank the file would have this process die of SIGBUS.
        let seals = rustix::fs::SealFlags::SHRINK | rustix::fs::SealFlags::GROW | rustix::fs::SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals).map_err(failed("seal the memfd for"))?;
    }
    Ok(Some(file))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::LayoutConfig;
    use vm_memory::{Bytes, GuestMemoryRegion, MemoryRegionAddress};

    fn ram(memory: u64, backing: &RamBacking) -> GuestRam {
        let layout = Layout::plan(&LayoutConfig { memory, ..LayoutConfig::default() }).unwrap();
        GuestRam::new(&layout, backing).unwrap()
    }

    #[test]
    fn every_range_is_congruent_with_its_guest_address() {
        for backing in [RamBacking::Anonymous, RamBacking::Memfd] {
            // Far more than this machine need have: nothing is touched.
            let ram = ram(40 << 30, &backing);
            assert_eq!(ram.num_regions(), 2);
            assert_eq!(ram.size(), 40 << 30);
            for region in ram.iter() {
                let host = region.get_host_address(MemoryRegionAddress(0)).unwrap() as u64;
                assert_eq!(host % Layout::HUGE_PAGE, region.start_addr().0 % Layout::HUGE_PAGE);
            }
        }
    }

    #[test]
    fn a_file_holds_what_the_guest_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ram");
        let ram = ram(Layout::MIN_MEMORY, &RamBacking::File(path.clone()));
        ram.write_slice(b"from the guest", GuestAddress(0x1234)).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len() as u64, Layout::MIN_MEMORY);
        assert_eq!(&bytes[0x1234..][..14], b"from the guest");
    }

    #[test]
    fn what_cannot_be_created_is_named() {
        let layout = Layout::plan(&LayoutConfig { memory: Layout::MIN_MEMORY, ..LayoutConfig::default() }).unwrap();
        let error = GuestRam::new(&layout, &RamBacking::File("/nonexistent/ram".into())).unwrap_err();
        assert!(error.to_string().contains("create the file for"), "{error}");
    }

    #[test]
    fn fresh_ram_is_zero_on_both_sides_of_the_hole() {
        let ram = ram(5 << 30, &RamBacking::Anonymous);
        for address in [0_u64, 0x472, (4 << 30) + 0x1000] {
            assert_eq!(ram.read_obj::<u64>(GuestAddress(address)).unwrap(), 0);
        }
        assert!(ram.read_obj::<u8>(GuestAddress(0xd000_0000)).is_err());
    }
}
