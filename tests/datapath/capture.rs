//! Sending and receiving whole frames on a device.

use std::io;
use std::mem::zeroed;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::libc::{
    ETH_P_ALL, PACKET_VNET_HDR, SOL_PACKET, c_int, setsockopt as setsockopt_raw, sockaddr, sockaddr_ll, socklen_t,
};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike, bind, recv, send, setsockopt,
    socket, sockopt::ReceiveTimeout,
};
use nix::sys::time::TimeVal;
use weft_tests::netns::View;

/// How long a frame may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// A packet socket on one device. It sees what the device receives and sends from the moment of its making.
pub(crate) struct Tap {
    socket: OwnedFd,
}

impl Tap {
    /// Opens one on a device of a namespace.
    pub(crate) fn new(namespace: &View, ifindex: u32) -> Self {
        namespace.enter(|| Self::open(ifindex)).unwrap().unwrap()
    }

    fn open(ifindex: u32) -> nix::Result<Self> {
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
        // SAFETY: a plain structure of integers.
        let mut address: sockaddr_ll = unsafe { zeroed() };
        address.sll_family = AddressFamily::Packet as u16;
        address.sll_protocol = (ETH_P_ALL as u16).to_be();
        address.sll_ifindex = ifindex as i32;
        // SAFETY: a socket address of the family that it says, of this length.
        let address = unsafe {
            LinkAddr::from_raw((&raw const address).cast::<sockaddr>(), Some(size_of::<sockaddr_ll>() as socklen_t))
        };
        bind(socket.as_raw_fd(), &address.expect("the family is that of packet sockets"))?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::new(0, 100_000))?;
        Ok(Self { socket })
    }

    /// Lets each frame begin with a `struct virtio_net_hdr`, which tells what of it a device is still to compute.
    pub(crate) fn with_header(self) -> Self {
        let on: c_int = 1;
        // SAFETY: the kernel reads an integer of the size that it is told.
        let set = unsafe {
            setsockopt_raw(
                self.socket.as_raw_fd(),
                SOL_PACKET,
                PACKET_VNET_HDR,
                (&raw const on).cast(),
                size_of::<c_int>() as socklen_t,
            )
        };
        assert_eq!(set, 0, "{}", io::Error::last_os_error());
        self
    }

    /// Sends a frame. One that a program at the egress drops is sent too, as far as the sender is concerned.
    pub(crate) fn send(&self, frame: &[u8]) {
        match send(self.socket.as_raw_fd(), frame, MsgFlags::empty()) {
            Ok(length) => assert_eq!(length, frame.len()),
            Err(errno) => assert_eq!(errno, nix::Error::ENOBUFS),
        }
    }

    /// Waits for the first frame that fits. Panics with the others when none comes.
    pub(crate) fn receive(&self, what: &str, fits: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let deadline = Instant::now() + LIMIT;
        let mut others = Vec::new();
        while Instant::now() < deadline {
            match self.next() {
                Some(frame) if fits(&frame) => return frame,
                Some(frame) => others.push(frame),
                None => (),
            }
        }
        panic!("{what} did not come, only {others:02x?}");
    }

    /// Whether a frame that fits is among those that came so far.
    pub(crate) fn has(&self, fits: impl Fn(&[u8]) -> bool) -> bool {
        let mut buffer = [0; 1 << 16];
        loop {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) if fits(&buffer[..length]) => return true,
                Ok(_) => (),
                Err(nix::Error::EAGAIN) => return false,
                Err(errno) => panic!("{}", io::Error::from(errno)),
            }
        }
    }

    fn next(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 1 << 16];
        match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(length) => {
                buffer.truncate(length);
                Some(buffer)
            }
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => None,
            Err(errno) => panic!("{}", io::Error::from(errno)),
        }
    }
}
