//! The virtio-fs device (virtio 1.2 section 5.11): its config space and its queues.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use krun_virtio::{Task, VirtioDevice, read_config_bytes};

use crate::error::Error;
use crate::filesystem::FileSystem;
use crate::server::FuseServer;
use crate::worker::FsWorker;

/// Device number of a file system device (virtio 1.2 section 5).
pub const DEVICE_ID: u32 = 26;
/// Room for the tag (`struct virtio_fs_config`, virtio 1.2 section 5.11.4).
pub const TAG_LEN: usize = 36;
/// Descriptors per queue: room for four requests of 1 MiB in single pages.
const QUEUE_SIZE: u16 = 1024;
/// Most request queues: as many vCPUs as a guest may have.
const MAX_REQUEST_QUEUES: u32 = 255;
/// Threads for blocking operations, per request queue. They start when the first is needed.
const POOL_THREADS: usize = 4;

/// A virtio-fs device. Queue 0 is for FORGET and INTERRUPT, which must not wait behind others; the others take
/// requests, each with a worker of its own.
#[derive(Debug)]
pub struct FsDevice<F: ?Sized> {
    server: Arc<FuseServer<F>>,
    config: [u8; TAG_LEN + 4],
    tag: String,
    queue_sizes: Vec<u16>,
    pool_threads: usize,
}

impl<F: FileSystem + 'static> FsDevice<F> {
    /// A device with one request queue that serves `fs` under `tag`, the name by which the guest mounts it.
    ///
    /// # Errors
    /// [`Error::Tag`] unless the tag has 1 to 36 bytes and no NUL.
    pub fn new(tag: &str, fs: F) -> Result<Self, Error> {
        Self::with_server(tag, Arc::new(FuseServer::new(Arc::new(fs))))
    }
}

impl<F: FileSystem + ?Sized + 'static> FsDevice<F> {
    /// A device for a server that is shared with others.
    ///
    /// # Errors
    /// As [`FsDevice::new`].
    pub fn with_server(tag: &str, server: Arc<FuseServer<F>>) -> Result<Self, Error> {
        if tag.is_empty() || tag.len() > TAG_LEN || tag.contains('\0') {
            return Err(Error::Tag { tag: tag.to_owned() });
        }
        let mut config = [0; TAG_LEN + 4];
        config.iter_mut().zip(tag.bytes()).for_each(|(place, byte)| *place = byte);
        let mut device =
            Self { server, config, tag: tag.to_owned(), queue_sizes: Vec::new(), pool_threads: POOL_THREADS };
        device.set_request_queues(1);
        Ok(device)
    }

    /// How many request queues there are, 1 to 255. Linux uses several since 6.11, one per CPU.
    ///
    /// # Errors
    /// [`Error::RequestQueues`] if `count` is out of range.
    pub fn request_queues(mut self, count: u32) -> Result<Self, Error> {
        if count == 0 || count > MAX_REQUEST_QUEUES {
            return Err(Error::RequestQueues { count, max: MAX_REQUEST_QUEUES });
        }
        self.set_request_queues(count);
        Ok(self)
    }

    /// How many threads per request queue wait for disks (at least 1; default 4).
    #[must_use]
    pub fn pool_threads(mut self, count: usize) -> Self {
        self.pool_threads = count.max(1);
        self
    }

    /// The server behind the queues.
    #[must_use]
    pub fn server(&self) -> &Arc<FuseServer<F>> {
        &self.server
    }

    fn set_request_queues(&mut self, count: u32) {
        if let Some(field) = self.config.last_chunk_mut() {
            *field = count.to_le_bytes();
        }
        self.queue_sizes = (0..=count).map(|_| QUEUE_SIZE).collect();
    }
}

impl<F: FileSystem + ?Sized + 'static> VirtioDevice for FsDevice<F> {
    fn device_type(&self) -> u32 {
        DEVICE_ID
    }

    fn name(&self) -> String {
        format!("fs-{}", self.tag.trim_start_matches('/'))
    }

    fn features(&self) -> u64 {
        // VIRTIO_FS_F_NOTIFICATION is not offered: no Linux driver has it.
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.config, offset, data);
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.server.file_system().descriptors()
    }

    fn tasks(&mut self) -> Vec<Task> {
        (0..)
            .zip(&self.queue_sizes)
            .map(|(index, _)| Task::new(index..index + 1, FsWorker::new(self.server.clone(), self.pool_threads)))
            .collect()
    }
}
