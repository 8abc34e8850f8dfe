//! What a test does to a served volume, whatever protocol it is served by.
//!
//! [`NbdProbe`](crate::nbd_probe::NbdProbe) speaks to `vdo_tgt`, [`NvmeProbe`](crate::nvme_probe::NvmeProbe) to a
//! program built on SPDK; [`rig::fill`](crate::rig::fill) and [`rig::check`](crate::rig::check) take either, so
//! that one test can write with one program and read with the other.

/// What a request came to: nothing, or the protocol's number of the error.
pub type Answer = Result<(), u32>;

/// A connection that asks one thing at a time (but for [`Probe::write_all`]) and passes on every answer.
pub trait Probe {
    /// Bytes of the device.
    fn size(&self) -> u64;

    /// Reads `data.len()` bytes at a byte offset.
    ///
    /// # Errors
    /// The server's number of the error.
    fn read(&mut self, offset: u64, data: &mut [u8]) -> Answer;

    /// Writes at a byte offset.
    ///
    /// # Errors
    /// The server's number of the error.
    fn write(&mut self, offset: u64, data: &[u8]) -> Answer;

    /// Writes much, many requests at a time; the answers in the order of the requests.
    fn write_all<D: AsRef<[u8]>>(
        &mut self,
        writes: impl IntoIterator<Item = (u64, D)>,
    ) -> Vec<Answer>;

    /// Lets go of a range of bytes.
    ///
    /// # Errors
    /// The server's number of the error.
    fn trim(&mut self, offset: u64, length: u64) -> Answer;

    /// Zeroes a range of bytes.
    ///
    /// # Errors
    /// The server's number of the error.
    fn zero(&mut self, offset: u64, length: u64) -> Answer;

    /// Waits until all that was answered is durable.
    ///
    /// # Errors
    /// The server's number of the error.
    fn flush(&mut self) -> Answer;
}
