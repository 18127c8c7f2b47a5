//! Package files as dpkg unpacks them fastest: not compressed, and with the times the files will have in
//! the end.
//!
//! dpkg unpacks one package after the other and decompresses as it goes; decompressing beforehand, all
//! packages at once, is most of the work done in parallel.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::deb::{Deb, member_header};
use crate::install_error::InstallError;

const BLOCK: usize = 512;
const MTIME: std::ops::Range<usize> = 136..148;
const CHECKSUM: std::ops::Range<usize> = 148..156;
const SIZE: std::ops::Range<usize> = 124..136;

/// Writes the package `deb` to the new file `to`, its tree uncompressed and no file's time after
/// `epoch`.
///
/// # Errors
/// [`InstallError`], with the package or the path.
pub(crate) fn repack(package: &str, deb: &Deb, to: &Path, epoch: i64) -> Result<(), InstallError> {
    let write = InstallError::file("write", to);
    let read = |source| InstallError::Read {
        package: package.to_owned(),
        source,
    };
    let mut data = deb.data().map_err(read)?;
    let result = (|| -> io::Result<Option<io::Error>> {
        let mut out = BufWriter::with_capacity(256 * 1024, File::create(to)?);
        out.write_all(b"!<arch>\n")?;
        out.write_all(&member_header("debian-binary", 4))?;
        out.write_all(b"2.0\n")?;
        let (name, len, mut control) = deb.raw_control();
        out.write_all(&member_header(name, len))?;
        io::copy(&mut control, &mut out)?;
        if len % 2 == 1 {
            out.write_all(b"\n")?;
        }
        let header_at = out.stream_position()?;
        out.write_all(&member_header("data.tar", 0))?;
        let len = match copy_tar(&mut data, &mut out, epoch)? {
            Ok(len) => len,
            Err(error) => return Ok(Some(error)),
        };
        out.seek(SeekFrom::Start(header_at))?;
        out.write_all(&member_header("data.tar", len))?;
        out.flush()?;
        Ok(None)
    })();
    match result.map_err(write)? {
        Some(error) => Err(read(error)),
        None => Ok(()),
    }
}

/// Copies a tar, setting times after `epoch` to it, and returns its length. The outer error is the
/// writer's, the inner the reader's.
fn copy_tar(
    tar: &mut dyn Read,
    out: &mut impl Write,
    epoch: i64,
) -> io::Result<Result<u64, io::Error>> {
    let mut len = 0_u64;
    let mut content_blocks = 0_u64;
    let mut buffer = vec![0; 256 * BLOCK];
    loop {
        let filled = match read_blocks(tar, &mut buffer) {
            Ok(0) => return Ok(Ok(len)),
            Ok(filled) => filled,
            Err(error) => return Ok(Err(error)),
        };
        let mut rest = &mut buffer[..filled];
        while !rest.is_empty() {
            let skip = usize::try_from(content_blocks)
                .unwrap_or(usize::MAX)
                .min(rest.len() / BLOCK);
            if skip > 0 {
                content_blocks -= skip as u64;
                rest = &mut rest[skip * BLOCK..];
                continue;
            }
            let (header, after) = rest.split_at_mut(BLOCK);
            match settle_header(header, epoch) {
                Some(content_bytes) => content_blocks = content_bytes.div_ceil(BLOCK as u64),
                None => {
                    let problem = "a header of its tar is damaged";
                    return Ok(Err(io::Error::new(io::ErrorKind::InvalidData, problem)));
                }
            }
            rest = after;
        }
        out.write_all(&buffer[..filled])?;
        len += filled as u64;
    }
}

/// Fills the buffer as far as the tar reaches; always whole blocks.
fn read_blocks(tar: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match tar.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if filled % BLOCK != 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(filled)
}

/// Sets the time in a header, and returns how many bytes of content follow it; `None` if it is no
/// header.
fn settle_header(header: &mut [u8], epoch: i64) -> Option<u64> {
    if header.iter().all(|byte| *byte == 0) {
        return Some(0);
    }
    let size = number(&header[SIZE])?;
    let mtime = number(&header[MTIME])?;
    if i64::try_from(mtime).is_ok_and(|mtime| mtime > epoch) {
        let time = format!("{:011o}\0", epoch.max(0));
        header[MTIME].copy_from_slice(time.as_bytes());
        header[CHECKSUM].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    Some(size)
}

/// Reads a number of a header: octal digits, or 8 bytes for large ones.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let (high, low) = field.split_at(field.len() - 8);
        if high[0] != 0x80 || high[1..].iter().any(|byte| *byte != 0) {
            return None;
        }
        return Some(u64::from_be_bytes(low.try_into().ok()?));
    }
    let text = std::str::from_utf8(field).ok()?;
    let digits = text.trim_matches([' ', '\0']);
    if digits.is_empty() {
        return Some(0);
    }
    u64::from_str_radix(digits, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(size: &str, mtime: &str) -> Vec<u8> {
        let mut header = vec![0; BLOCK];
        header[..4].copy_from_slice(b"name");
        header[SIZE][..size.len()].copy_from_slice(size.as_bytes());
        header[MTIME][..mtime.len()].copy_from_slice(mtime.as_bytes());
        header[156] = b'0';
        header
    }

    fn copy(tar: &[u8], epoch: i64) -> Result<Vec<u8>, io::Error> {
        let mut out = Vec::new();
        let len = copy_tar(&mut &tar[..], &mut out, epoch).unwrap()?;
        assert_eq!(len, out.len() as u64);
        Ok(out)
    }

    #[test]
    fn only_late_times_and_their_checksums_change() {
        let mut tar = header("00000000003", "14000000000");
        let mut content = vec![b'x'; BLOCK];
        content[MTIME].copy_from_slice(b"77777777777\0");
        tar.extend(&content);
        tar.extend(header("00000000000", "00000000007"));
        tar.extend(vec![0; 2 * BLOCK]);
        let out = copy(&tar, 315_532_800).unwrap();
        assert_eq!(&out[MTIME], b"02263523000\0");
        let mut blank = out[..BLOCK].to_vec();
        blank[CHECKSUM].fill(b' ');
        let sum: u32 = blank.iter().map(|byte| u32::from(*byte)).sum();
        assert_eq!(&out[CHECKSUM], format!("{sum:06o}\0 ").as_bytes());
        assert_eq!(out[BLOCK..], tar[BLOCK..]);
    }

    #[test]
    fn damaged_tars_are_refused() {
        assert!(copy(&header("9", "0")[..], 0).is_err());
        assert!(copy(&header("0", "0")[..500], 0).is_err());
        let mut large = header("", "0");
        large[SIZE].copy_from_slice(&[0xff; 12]);
        assert!(copy(&large, 0).is_err());
        assert!(copy(b"", 0).unwrap().is_empty());
    }
}
