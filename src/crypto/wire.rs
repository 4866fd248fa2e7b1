//! Reading and writing the fixed layouts of TC/1 (section 3.1): big-endian integers, byte strings, `LV`. Knows no layout.
//! Also carries the storage records, which hold secrets: a [`Writer`] is wiped on drop and when it grows.

use zeroize::{Zeroize, Zeroizing};

use super::error::Error;

/// Takes fields from the front of a byte string. Every method answers `Malformed` when too little is left.
#[derive(Clone, Copy)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], Error> {
        let (array, rest) = self.0.split_first_chunk().ok_or(Error::Malformed)?;
        self.0 = rest;
        Ok(array)
    }

    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], Error> {
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(Error::Malformed)?;
        self.0 = rest;
        Ok(bytes)
    }

    pub fn u8(&mut self) -> Result<u8, Error> {
        self.array().map(|&[byte]| byte)
    }

    pub fn u16(&mut self) -> Result<u16, Error> {
        self.array().copied().map(u16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, Error> {
        self.array().copied().map(u32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, Error> {
        self.array().copied().map(u64::from_be_bytes)
    }

    /// A byte that is 0 or 1.
    pub fn bool(&mut self) -> Result<bool, Error> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Error::Malformed),
        }
    }

    /// A value after a byte that says whether it is there.
    pub fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<Option<T>, Error> {
        if self.bool()? { read(self).map(Some) } else { Ok(None) }
    }

    /// `LV`: 16 bits of length, then so many bytes.
    pub fn lv(&mut self) -> Result<&'a [u8], Error> {
        let len = self.u16()?;
        self.bytes(usize::from(len))
    }

    /// As [`lv`](Self::lv) with 32 bits of length; used in storage records only.
    pub fn long(&mut self) -> Result<&'a [u8], Error> {
        let len = self.u32()?;
        self.bytes(usize::try_from(len).map_err(|_| Error::Malformed)?)
    }

    /// All that is left.
    pub const fn rest(self) -> &'a [u8] {
        self.0
    }

    /// Nothing may be left.
    pub const fn end(self) -> Result<(), Error> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::Malformed) }
    }
}

/// Appends fields.
#[derive(Default)]
pub struct Writer(Zeroizing<Vec<u8>>);

impl Writer {
    pub fn with_capacity(bytes: usize) -> Self {
        Self(Zeroizing::new(Vec::with_capacity(bytes)))
    }

    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        if self.0.capacity() - self.0.len() < bytes.len() {
            self.grow(bytes.len());
        }
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    pub fn bool(&mut self, value: bool) -> &mut Self {
        self.u8(u8::from(value))
    }

    /// A byte that says whether there is a value, then the value.
    pub fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) -> &mut Self {
        self.bool(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
        self
    }

    /// A 32-bit count; what a record counts is bounded far below.
    pub fn count(&mut self, count: usize) -> &mut Self {
        self.u32(u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// 32 bits of length, then the bytes.
    pub fn long(&mut self, bytes: &[u8]) -> &mut Self {
        self.count(bytes.len()).bytes(bytes)
    }

    /// The bytes; they are wiped when dropped.
    pub fn finish(&mut self) -> Zeroizing<Vec<u8>> {
        std::mem::take(&mut self.0)
    }

    /// Moves to a larger buffer by hand, because `Vec` would leave the old bytes in freed memory.
    fn grow(&mut self, more: usize) {
        let mut larger = Vec::with_capacity((self.0.len() + more).next_power_of_two());
        larger.extend_from_slice(&self.0);
        self.0.zeroize();
        *self.0 = larger;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_nothing_else() {
        let mut writer = Writer::default();
        writer.u8(1).u16(2).u32(3).u64(4).bool(true).long(b"long").option(Some(9), |w, v| {
            w.u16(v);
        });
        let bytes = writer.option(None::<u8>, |_, _| ()).finish();
        let mut reader = Reader::new(&bytes);
        assert_eq!((reader.u8(), reader.u16(), reader.u32(), reader.u64()), (Ok(1), Ok(2), Ok(3), Ok(4)));
        assert_eq!((reader.bool(), reader.long()), (Ok(true), Ok(&b"long"[..])));
        assert_eq!((reader.option(Reader::u16), reader.option(Reader::u16)), (Ok(Some(9)), Ok(None)));
        assert_eq!((reader.end(), reader.u8()), (Ok(()), Err(Error::Malformed)));
        assert_eq!(Reader::new(&[2]).bool(), Err(Error::Malformed));
        assert_eq!(Reader::new(&[0, 9, 1]).lv(), Err(Error::Malformed));
    }
}
