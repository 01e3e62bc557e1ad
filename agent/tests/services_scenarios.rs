//! Objects in, map contents and verdicts out: every file of `services/`, on maps that obey and on maps that fail.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::path::Path;

use weft_agent::datapath::fake::Faults;
use weft_agent::datapath::fake_services::FakeServiceMaps;
use weft_agent::services::scenario::file::Scenario;
use weft_agent::services::scenario::run::run;
use weft_agent::services::state::ServiceState;

/// Makes a test of each file.
macro_rules! scenarios {
    ($($name:ident)*) => {
        const SCENARIOS: &[&str] = &[$(stringify!($name)),*];
        $(
            #[test]
            fn $name() {
                rehearse(include_str!(concat!("services/", stringify!($name), ".yaml")));
            }
        )*
    };
}

scenarios! {
    a_cluster_ip_leads_to_the_ready_endpoints_of_all_nodes
    a_service_without_endpoints_refuses_on_every_address
    an_undefined_port_of_a_cluster_ip_refuses_and_an_unallocated_address_drops
    external_ips_belong_to_the_older_service_and_never_to_one_when_a_pod_has_them
    external_traffic_policy_local_is_for_clients_from_elsewhere_and_cluster_for_all
    families_are_independent_of_each_other
    hints_choose_the_node_or_the_zone_when_all_ready_endpoints_carry_them
    internal_traffic_policy_local_keeps_cluster_ip_clients_on_this_node
    labels_and_types_say_which_services_are_ours_and_may_change
    load_balancer_addresses_are_served_on_the_node_unless_the_balancer_is_a_proxy
    many_slices_make_one_set_and_of_two_endpoints_with_one_address_the_one_that_stays_counts
    names_and_ports_that_mean_nothing_are_left_out_of_slices
    names_are_kept_apart_by_namespace_port_and_family_and_ports_may_be_renamed
    node_ports_are_served_on_the_addresses_of_the_node_and_on_loopback_for_the_node_itself
    session_affinity_has_a_timeout_and_can_be_switched_on_and_off
    source_ranges_are_for_load_balancer_addresses_and_for_clients_in_the_cluster_too
    terminating_endpoints_serve_while_nothing_is_ready_each_set_by_itself
}

fn rehearse(text: &str) {
    let scenario = Scenario::parse(text).unwrap();
    run(&scenario, &FakeServiceMaps::new(ServiceState::default())).unwrap_or_else(|reason| panic!("{reason}"));
    for seed in 0..20 {
        let maps = FakeServiceMaps::new(ServiceState::default());
        maps.set_faults(Faults::Random { seed, percent: 10 });
        run(&scenario, &maps).unwrap_or_else(|reason| panic!("with faults, seed {seed}: {reason}"));
    }
}

#[test]
fn every_file_is_a_test() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services");
    let files = folder.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let scenarios: BTreeSet<String> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(scenarios, SCENARIOS.iter().map(|name| (*name).to_owned()).collect());
}
