use std::net::IpAddr;

use super::fake::{FakeKernel, Faults};
use super::{Kernel, KernelError, Watched};
use crate::overlay::state::{Change, OverlayState, Underlay};

fn kernel() -> FakeKernel {
    FakeKernel::new(OverlayState::default(), Underlay { device: "eth0".to_owned(), mtu: 1500 })
}

fn address() -> IpAddr {
    [10, 244, 1, 1].into()
}

async fn create(kernel: &FakeKernel) -> Result<(), KernelError> {
    let device =
        crate::overlay::state::OverlayDevice { mtu: 1450, mac: [2, 0, 0, 0, 0, 1], shape_is_ours: true, up: true };
    kernel.apply(&Change::CreateDevice(device)).await
}

#[tokio::test]
async fn an_address_needs_the_device() {
    let kernel = kernel();
    assert!(kernel.apply(&Change::AddAddress(address())).await.is_err());
    create(&kernel).await.unwrap();
    kernel.apply(&Change::AddAddress(address())).await.unwrap();
    assert!(kernel.state().addresses.contains(&address()));
}

#[tokio::test]
async fn a_change_that_is_already_done_is_no_write() {
    let kernel = kernel();
    create(&kernel).await.unwrap();
    create(&kernel).await.unwrap();
    assert_eq!(kernel.writes().len(), 1);
}

#[tokio::test]
async fn the_same_seed_gives_the_same_faults() {
    let mut runs = Vec::new();
    for _ in 0..2 {
        let kernel = kernel();
        kernel.set_faults(Faults::Random { seed: 7, percent: 10 });
        let mut run = Vec::new();
        for _ in 0..1000 {
            run.push(kernel.observe(&Watched::NOTHING).await.is_err());
        }
        assert!((50..150).contains(&kernel.failures()), "about a tenth fails, here {}", kernel.failures());
        runs.push(run);
    }
    assert_eq!(runs[0], runs[1]);
}

#[tokio::test]
async fn every_third_call_fails() {
    let kernel = kernel();
    kernel.set_faults(Faults::Every(3));
    let mut run = Vec::new();
    for _ in 0..6 {
        run.push(kernel.observe(&Watched::NOTHING).await.is_ok());
    }
    assert_eq!(run, [true, true, false, true, true, false]);
}
