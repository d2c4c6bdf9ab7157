//! SOCKS 5 (RFC 1928), as far as it is of use here: CONNECT, with a name or an address, and no user.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::contacts::Way;
use super::gate::{Gate, Refusal};
use super::proxy::{ASKING_WALL, Tunnel};
use super::rules::{Host, Target};

/// The first byte of all that is said.
pub(super) const VERSION: u8 = 5;

const NO_USER: u8 = 0;
const NO_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;

/// How a request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Said {
    Done = 0,
    Failed = 1,
    NotAllowed = 2,
    Unreachable = 4,
    NoSuchCommand = 7,
    NoSuchAddress = 8,
}

pub(super) async fn serve<S>(mut near: S, gate: &Arc<Gate>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let asked = tokio::time::timeout(ASKING_WALL, ask(&mut near)).await??;
    let (said, tunnel) = match asked {
        Ok(target) => match Tunnel::open(gate, &target, Way::Socks).await {
            Ok(tunnel) => (Said::Done, Some(tunnel)),
            Err(Refusal::Denied(_)) => (Said::NotAllowed, None),
            Err(Refusal::Unreachable(_)) => (Said::Unreachable, None),
            Err(Refusal::Wrong(_)) => (Said::Failed, None),
        },
        Err(said) => (said, None),
    };
    // The address it was dialled by is nobody's business.
    near.write_all(&[VERSION, said as u8, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
    match tunnel {
        Some(tunnel) => tunnel.carry(near, gate).await,
        None => near.shutdown().await,
    }
}

/// Hears what is wanted. The error within is what is to be answered.
async fn ask<S: AsyncRead + AsyncWrite + Unpin>(near: &mut S) -> io::Result<Result<Target, Said>> {
    let [_, methods] = read(near).await?;
    let mut offered = vec![0; usize::from(methods)];
    near.read_exact(&mut offered).await?;
    if !offered.contains(&NO_USER) {
        near.write_all(&[VERSION, NO_METHOD]).await?;
        return Err(io::ErrorKind::InvalidData.into());
    }
    near.write_all(&[VERSION, NO_USER]).await?;
    let [version, command, _, kind] = read(near).await?;
    if version != VERSION {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let host = match kind {
        1 => Ok(Host::Address(IpAddr::from(Ipv4Addr::from(read::<4, S>(near).await?)))),
        // As one would be written: IPv4 in it is IPv4.
        4 => Ok(Host::Address(IpAddr::from(Ipv6Addr::from(read::<16, S>(near).await?)).to_canonical())),
        3 => {
            let [length] = read(near).await?;
            let mut name = vec![0; usize::from(length)];
            near.read_exact(&mut name).await?;
            // Read like every other name: a NUL or a blank in it is no name.
            std::str::from_utf8(&name).ok().and_then(|name| Host::read(name).ok()).ok_or(Said::Failed)
        }
        _ => return Ok(Err(Said::NoSuchAddress)),
    };
    let port = u16::from_be_bytes(read(near).await?);
    if command != CONNECT {
        return Ok(Err(Said::NoSuchCommand));
    }
    if port == 0 {
        return Ok(Err(Said::Failed));
    }
    Ok(host.map(|host| Target { host, port }))
}

async fn read<const N: usize, S: AsyncRead + Unpin>(near: &mut S) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    near.read_exact(&mut bytes).await?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn asked(said: &[u8]) -> io::Result<Result<Target, Said>> {
        let (mut near, mut far) = tokio::io::duplex(1024);
        far.write_all(said).await.unwrap();
        far.shutdown().await.unwrap();
        ask(&mut near).await
    }

    fn by_name(name: &[u8], port: u16) -> Vec<u8> {
        let mut said = vec![5, 1, 0, 5, 1, 0, 3, u8::try_from(name.len()).unwrap()];
        said.extend(name);
        said.extend(port.to_be_bytes());
        said
    }

    #[tokio::test]
    async fn a_request_is_read_to_one_target_or_refused() {
        let target = |text: &str| Target::read(text, None).unwrap();
        assert_eq!(asked(&by_name(b"Example.org.", 443)).await.unwrap(), Ok(target("example.org:443")));
        assert_eq!(asked(&by_name(b"0x7f.1", 80)).await.unwrap(), Ok(target("127.0.0.1:80")));
        assert_eq!(asked(&by_name(b"::1", 80)).await.unwrap(), Ok(target("[::1]:80")));
        // A name that ends for one reader where it goes on for another has opened hosts before.
        for wrong in [&b"example.org\0.evil.test"[..], b"", b"a b", b"\xff\xfe", b"a/b"] {
            assert_eq!(asked(&by_name(wrong, 80)).await.unwrap(), Err(Said::Failed), "{wrong:?}");
        }
        assert_eq!(asked(&by_name(b"a.test", 0)).await.unwrap(), Err(Said::Failed));
        let v4 = asked(&[5, 1, 0, 5, 1, 0, 1, 10, 0, 0, 1, 0, 80]).await.unwrap();
        assert_eq!(v4, Ok(target("10.0.0.1:80")));
        let mut mapped = vec![5, 1, 0, 5, 1, 0, 4];
        mapped.extend("::ffff:127.0.0.1".parse::<Ipv6Addr>().unwrap().octets());
        mapped.extend([0, 80]);
        assert_eq!(asked(&mapped).await.unwrap(), Ok(target("127.0.0.1:80")));
        let bind = asked(&[5, 1, 0, 5, 2, 0, 1, 1, 1, 1, 1, 0, 80]).await.unwrap();
        assert_eq!(bind, Err(Said::NoSuchCommand));
        assert!(asked(&[5, 1, 2]).await.is_err(), "a user is not asked for");
        assert!(asked(&[5, 1, 0, 5, 1]).await.is_err(), "a request that is cut is none");
    }
}
