//! The map POD_NAMESPACES: programs for sockets know a pod by its network namespace, and need its addresses.
//!
//! The kernel numbers namespaces and never uses a number again, so nothing has to be removed: the map lets go of the entry that nobody has
//! used for longest.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd},
    path::Path,
};

use weft_common::{
    address::{AddressBytes, to_bytes},
    layout::map::POD_NAMESPACES,
};

use crate::bpf::{self, LruMap};

/// The option of a socket that tells the number of its network namespace (`asm-generic/socket.h`, Linux 5.14).
const SO_NETNS_COOKIE: libc::c_int = 71;

/// Records the addresses of the pod in whose namespace a socket is. An agent without the map, and a kernel without the number, know
/// nothing of sockets of pods: then there is nothing to record.
pub(crate) fn record(pin_directory: &Path, socket: &impl AsFd, addresses: &[IpAddr]) -> Result<(), bpf::Error> {
    let map = match LruMap::<8, 32>::open(pin_directory, POD_NAMESPACES) {
        Ok(map) => map,
        Err(bpf::Error::NotPinned { .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    // Whatever keeps the kernel from telling it: packets of the pod are translated on their way instead.
    let Ok(cookie) = cookie(socket) else { return Ok(()) };
    map.set(&cookie.to_ne_bytes(), &to_value(addresses))?;
    Ok(())
}

fn cookie(socket: &impl AsFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which is what `cookie` has.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

/// [`weft_common::services::PodAddresses`].
fn to_value(addresses: &[IpAddr]) -> [u8; 32] {
    let of = |is_of_family: fn(&IpAddr) -> bool| -> AddressBytes {
        addresses.iter().find(|address| is_of_family(address)).map_or([0; 16], |address| to_bytes(*address))
    };
    let mut value = [0; 32];
    value[..16].copy_from_slice(&of(IpAddr::is_ipv4));
    value[16..].copy_from_slice(&of(IpAddr::is_ipv6));
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;
    use weft_common::services::PodAddresses;

    #[test]
    fn values_have_the_layout_of_the_shared_struct() {
        let [v4, v6]: [IpAddr; 2] = ["10.244.1.2", "fd00::2"].map(|address| address.parse().unwrap());
        for addresses in [[v4, v6], [v6, v4]] {
            let value = to_value(&addresses);
            assert_eq!(value.len(), size_of::<PodAddresses>());
            assert_eq!(value[offset_of!(PodAddresses, v4)..][..16], to_bytes(v4));
            assert_eq!(value[offset_of!(PodAddresses, v6)..][..16], to_bytes(v6));
        }
        assert_eq!(to_value(&[v6])[..16], [0; 16]);
    }
}
