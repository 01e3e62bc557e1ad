//! What the plugin made on the host side of a pod is put back when somebody else changes it, and traffic flows again; what is not
//! weft's there is left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use weft_agent::datapath::kernel::LinuxKernel;
use weft_agent::datapath::{object, programs};
use weft_agent::model::cluster::{Cluster, Node};
use weft_agent::overlay::pod_devices::StateDirectory;
use weft_agent::overlay::reconcile::{Pass, Reconciler};
use weft_agent::overlay::state::Change;
use weft_agent::overlay::way::FastPath;
use weft_cni::lock::Lock;
use weft_common::entries::Endpoint;
use weft_tests::netns::Namespace;
use weft_tests::wait;

use crate::kernel_session::{Session, internal_ip, lonely_node, pod_cidr};
use crate::plugin_node::{PINS, PluginNode, pod};

/// Long enough for a loaded machine; no test waits for its end when all is well.
const LIMIT: Duration = Duration::from_secs(20);

/// Damage, as an operator, another program or a crash does it, and the kinds of changes that repair it. `$dev`, `$mac`, `$v4` and
/// `$v6` are the first pod's.
const DAMAGE: &[(&str, &[&str])] = &[
    ("ip link set $dev down", &["set_pod_device", "set_pod_neighbour", "set_pod_route"]),
    ("ip link set $dev address 02:00:00:00:00:77", &["set_pod_device", "set_pod_neighbour"]),
    ("ip link set $dev group 0", &["set_pod_device"]),
    ("ip neighbour delete $v4 dev $dev", &["set_pod_neighbour"]),
    ("ip neighbour delete $v6 dev $dev", &["set_pod_neighbour"]),
    ("ip neighbour replace $v4 lladdr 02:00:00:00:00:78 nud permanent dev $dev", &["set_pod_neighbour"]),
    ("ip neighbour replace $v6 lladdr $mac nud stale dev $dev", &["set_pod_neighbour"]),
    ("ip route delete $v4/32", &["set_pod_route"]),
    ("ip -6 route delete $v6/128", &["set_pod_route"]),
    ("ip route replace $v4/32 proto static dev eth0", &["set_pod_route"]),
    ("ip route replace unreachable $v4/32 proto static", &["set_pod_route"]),
    ("ip -6 route replace $v6/128 proto static via 2001:db8::9", &["set_pod_route"]),
    ("tc qdisc delete dev $dev clsact", &["set_filter"]),
    ("tc filter delete dev $dev egress", &["set_filter"]),
    ("rm $pins/ENDPOINTS", &["set_pin"]),
    ("rm $pins/from_pod", &["set_pin"]),
    ("rm -r /sys/fs/bpf/weft", &["set_pin"]),
    ("mount -t bpf bpf /sys/fs/bpf", &["set_pin"]),
    ("mv $pins/from_pod $pins/x; mv $pins/to_pod $pins/from_pod; mv $pins/x $pins/to_pod", &["set_pin"]),
    ("mv $pins/NODES $pins/from_overlay", &["set_pin"]),
    (
        "rm $pins/ENDPOINTS; bpftool map create $pins/ENDPOINTS type hash key 4 value 8 entries 16 name other",
        &["set_pin"],
    ),
];

/// A node with two pods, whose kernel an agent looks after.
struct PodNode<'a> {
    session: &'a Session,
    namespace: &'a Namespace,
    plugin: PluginNode,
    pods: [Namespace; 2],
    device: String,
    mac: String,
    addresses: [Vec<IpAddr>; 2],
}

impl<'a> PodNode<'a> {
    fn run(test: impl FnOnce(&PodNode<'_>) + Send) {
        let namespace = lonely_node("pods");
        Session::run(&namespace, |session| test(&PodNode::open(session, &namespace)));
    }

    fn open(session: &'a Session, namespace: &'a Namespace) -> Self {
        let plugin = PluginNode::here(&[4, 6]);
        let pods = [pod("pod-1"), pod("pod-2")];
        // The overlay comes first: a pod's gateway is an address of weft0.
        let mut node = Self {
            session,
            namespace,
            plugin,
            pods,
            device: String::new(),
            mac: String::new(),
            addresses: Default::default(),
        };
        node.pass(&mut node.agent(&session.kernel));
        for (index, id) in ["one", "two"].into_iter().enumerate() {
            let result = node.plugin.add(id, &node.pods[index]).success();
            let ips = result["ips"].as_array().unwrap();
            let address = |text: &str| text.split('/').next().unwrap().parse().unwrap();
            node.addresses[index] = ips.iter().map(|ip| address(ip["address"].as_str().unwrap())).collect();
            if index == 0 {
                let interfaces = result["interfaces"].as_array().unwrap();
                let name = |side: usize, key: &str| interfaces[side][key].as_str().unwrap().to_owned();
                (node.device, node.mac) = (name(0, "name"), name(1, "mac"));
            }
        }
        node
    }

    /// An agent that knows nothing of the past.
    fn agent<'k>(&self, kernel: &'k LinuxKernel) -> Reconciler<'k, LinuxKernel, StateDirectory> {
        Reconciler::new(kernel, StateDirectory(self.plugin.file("")), "node-1".to_owned(), FastPath::Allowed)
    }

    fn pass(&self, agent: &mut Reconciler<'_, LinuxKernel, StateDirectory>) -> Pass {
        let node = |number: u8| Node {
            name: format!("node-{number}"),
            internal_ips: vec![internal_ip(number, 4)],
            pod_cidrs: vec![pod_cidr(number, 4), pod_cidr(number, 6)],
            ..Node::default()
        };
        let nodes = [node(1), node(2)].map(|node| (node.name.clone(), node));
        let cluster = Cluster { nodes: BTreeMap::from(nodes), problems: Vec::new(), ..Cluster::default() };
        self.session.wait(agent.pass(&cluster))
    }

    /// A pass in which nothing is refused.
    fn good_pass(&self, agent: &mut Reconciler<'_, LinuxKernel, StateDirectory>) -> Pass {
        let pass = self.pass(agent);
        assert!(pass.is_in_sync() && pass.failures.is_empty(), "{pass:?}");
        pass
    }

    /// Runs a script that may name the first pod's device, addresses and MAC address.
    fn sh(&self, script: &str) -> String {
        let [v4, v6] = [&self.addresses[0][0], &self.addresses[0][1]];
        let (dev, mac) = (&self.device, &self.mac);
        let script = format!("dev={dev} mac={mac} v4={v4} v6={v6} pins={PINS}\n{script}");
        self.namespace.run(["sh", "-ec", &script]).unwrap()
    }

    /// What weft has on the first pod's host side, and what is pinned.
    fn ours(&self) -> String {
        self.sh(
            "ip -o link show up dev $dev | grep -oE 'group [0-9a-z]+|link/ether [0-9a-f:]+'; ip neighbour show nud permanent dev $dev; \
             ip route show dev $dev proto static; ip -6 route show dev $dev proto static; \
             for hook in ingress egress; do tc filter show dev $dev $hook pref 1 | grep -o 'direct-action.* id [0-9]*'; done; \
             for map in ENDPOINTS NODES NODE_ADDRESSES CONFIG DROPS; do bpftool map show pinned $pins/$map | head -1; done; \
             for program in from_pod to_pod from_overlay; do bpftool prog show pinned $pins/$program | head -1; done; \
             bpftool map dump pinned $pins/ENDPOINTS | sort",
        )
    }

    fn traffic_flows(&self) {
        let reach = |from: &weft_tests::netns::View, to: &IpAddr| {
            let ping = || from.run(["ping", "-c", "1", "-W", "1", &to.to_string()]).map(drop);
            wait::until(LIMIT, "a ping", ping).unwrap_or_else(|error| panic!("{} to {to}: {error:#}", from.name()));
        };
        for (own, other) in self.addresses[0].iter().zip(&self.addresses[1]) {
            reach(self.namespace, own);
            reach(&self.pods[0], other);
            reach(&self.pods[1], own);
        }
        reach(&self.pods[0], &internal_ip(1, 4));
    }
}

#[test]
fn whatever_somebody_changes_on_the_host_side_of_a_pod_is_put_back_and_traffic_flows_again() {
    PodNode::run(|node| {
        let mut agent = node.agent(&node.session.kernel);
        node.good_pass(&mut agent);
        node.traffic_flows();
        let before = node.ours();
        for (damage, kinds) in DAMAGE {
            node.sh(damage);
            let repaired = node.good_pass(&mut agent).repaired;
            let found: BTreeSet<_> = repaired.iter().map(Change::kind).collect();
            assert_eq!(found, kinds.iter().copied().collect(), "{damage}: {repaired:?}");
            assert_eq!(node.ours(), before, "after {damage}");
            node.traffic_flows();
            let again = node.good_pass(&mut agent);
            assert_eq!(again.applied, [], "a second pass after {damage} finds nothing to do");
        }
    });
}

#[test]
fn entries_of_pods_are_put_back_and_those_of_nobody_go_but_not_under_the_plugins_hands() {
    PodNode::run(|node| {
        let maps = &node.session.maps;
        let mut agent = node.agent(&node.session.kernel);
        node.good_pass(&mut agent);
        let before = maps.endpoints().unwrap();
        let own = node.addresses[0][0];
        let wrong = Endpoint { ifindex: 1, ..before[&own] };
        let stranger: IpAddr = "10.244.1.77".parse().unwrap();
        let damages: [(&str, &dyn Fn()); 4] = [
            ("a lost entry", &|| maps.remove_endpoint(own).unwrap()),
            ("another device", &|| maps.set_endpoint(own, wrong).unwrap()),
            ("an address of nobody", &|| maps.set_endpoint(stranger, wrong).unwrap()),
            ("an address of nobody on a pod's device", &|| maps.set_endpoint(stranger, before[&own]).unwrap()),
        ];
        for (damage, break_it) in damages {
            break_it();
            assert_eq!(node.good_pass(&mut agent).repaired.len(), 1, "{damage}");
            assert_eq!(maps.endpoints().unwrap(), before, "{damage}");
        }

        // An ADD that is half way has the address, and no record yet.
        let allocation = node.plugin.file("addresses/10.244.1.77");
        std::fs::write(&allocation, "three eth0\n").unwrap();
        maps.set_endpoint(stranger, wrong).unwrap();
        assert_eq!(node.good_pass(&mut agent).applied, []);
        assert_eq!(maps.endpoints().unwrap()[&stranger], wrong);
        std::fs::remove_file(&allocation).unwrap();

        // While the plugin has the lock, nothing is written; everything else is looked after all the same.
        let lock = Lock::acquire(&node.plugin.file(""), LIMIT).unwrap();
        node.sh("ip route delete $v4/32");
        let pass = node.pass(&mut agent);
        assert_eq!(pass.repaired.iter().map(Change::kind).collect::<Vec<_>>(), ["set_pod_route"]);
        assert!(pass.is_in_sync() && pass.failures[0].reason.contains("held the lock"), "{:?}", pass.failures);
        assert!(maps.endpoints().unwrap().contains_key(&stranger));
        drop(lock);
        assert_eq!(node.good_pass(&mut agent).applied.len(), 1);
        assert_eq!(maps.endpoints().unwrap(), before);
    });
}

#[test]
fn a_pod_that_ends_leaves_nothing_for_the_agent_to_put_back() {
    PodNode::run(|node| {
        let mut agent = node.agent(&node.session.kernel);
        node.good_pass(&mut agent);
        // The namespace ends before DEL comes.
        node.sh("ip link delete $dev");
        let pass = node.good_pass(&mut agent);
        assert_eq!(pass.applied, []);
        let problems = &pass.comparison.as_ref().unwrap().problems;
        assert!(problems.len() == 1 && problems[0].reason.contains("the network of pod default/web"), "{problems:?}");
        assert!(problems[0].next_step.contains("delete it"), "{problems:?}");
        node.plugin.del("one", "").success();
        let pass = node.good_pass(&mut agent);
        assert_eq!((pass.applied, &pass.comparison.unwrap().problems), (Vec::new(), &Vec::new()));
        let left = node.session.maps.endpoints().unwrap();
        assert!(node.addresses[0].iter().all(|address| !left.contains_key(address)), "{left:?}");
        assert_eq!(left.len(), 2);
    });
}

#[test]
fn without_a_bpf_file_system_the_node_is_not_ready_and_says_how_to_mount_one() {
    PodNode::run(|node| {
        let mut agent = node.agent(&node.session.kernel);
        node.good_pass(&mut agent);
        node.sh("mount -t tmpfs none /sys/fs/bpf");
        let pass = node.pass(&mut agent);
        assert!(!pass.is_in_sync(), "no pod could start");
        assert!(
            pass.failures.iter().all(|failure| failure.reason.contains("mount -t bpf bpf /sys/fs/bpf")),
            "{pass:?}"
        );
        node.traffic_flows();
        node.sh("umount /sys/fs/bpf");
        assert_eq!(node.good_pass(&mut agent).applied, [], "everything is where it was");
    });
}

/// What others have on the first pod's host side and elsewhere.
const FOREIGN: &[&str] = &[
    "tc filter add dev $dev ingress prio 2 protocol ip u32 match ip dst 198.51.100.1/32 flowid 1:1",
    "tc filter add dev $dev ingress prio 1 handle 7 protocol all bpf bytecode '1,6 0 0 0' flowid 1:1",
    "tc filter add dev $dev egress prio 3 protocol ip bpf bytecode '1,6 0 0 0' flowid 1:1",
    "tc filter add dev weft0 ingress prio 1 handle 7 protocol all bpf bytecode '1,6 0 0 0' flowid 1:1",
    "ip neighbour add 10.244.1.200 lladdr 02:00:00:00:00:99 nud permanent dev $dev",
    "ip route add 10.99.0.0/16 dev $dev",
    "ip route add $v4/32 metric 500 dev eth0",
    "ip -6 route add fd00:99::/64 proto static dev $dev",
    "ip link add weftforeign type veth peer name weft0abc",
    "nft add table ip weft",
    "nft add table inet weft-other",
    "nft 'add chain inet weft-other forward { type filter hook forward priority 0 ; }'",
    "mkdir /sys/fs/bpf/weft/other",
    "bpftool map create $pins/STRANGER type hash key 4 value 4 entries 1 name stranger",
    "bpftool map create /sys/fs/bpf/weft/other/MAP type hash key 4 value 4 entries 1 name stranger",
];

fn foreign(node: &PodNode<'_>) -> String {
    let seen = node.sh(
        "for d in $dev weft0; do tc filter show dev $d ingress; tc filter show dev $d egress; done | grep -v 'handle 0x1 '; \
         ip neighbour show dev $dev; ip route show table all; ip -6 route show table all; ip -o link show weftforeign; \
         ip -o link show weft0abc; nft list table ip weft; nft list table inet weft-other; \
         bpftool map show pinned $pins/STRANGER; bpftool map show pinned /sys/fs/bpf/weft/other/MAP; ls /sys/fs/bpf/weft/other",
    );
    // Routes by protocol 119 and the first pod's own are weft's; link-local ones come when the kernel likes.
    let ours = |line: &&str| line.contains("proto 119") || line.contains("fe80") || line.contains("multicast");
    let mut lines: Vec<&str> = seen.lines().filter(|line| !ours(line)).collect();
    lines.sort_unstable();
    lines.join("\n")
}

#[test]
fn what_others_have_on_pods_devices_survives_repairs_and_restarts() {
    PodNode::run(|node| {
        let mut agent = node.agent(&node.session.kernel);
        node.good_pass(&mut agent);
        FOREIGN.iter().for_each(|words| drop(node.sh(words)));
        assert_eq!(node.good_pass(&mut agent).applied, [], "others' objects are no difference");
        let before = foreign(node);
        for damage in [
            "tc filter delete dev $dev ingress pref 1 handle 1 bpf",
            "tc filter delete dev $dev egress pref 1",
            "tc filter delete dev weft0 ingress pref 1 handle 1 bpf",
            "ip route delete $v4/32 proto static",
            "ip neighbour delete $v4 dev $dev",
            "ip link set $dev group 0",
            "nft delete table inet weft",
            "rm $pins/*_pod $pins/NODES",
        ] {
            node.sh(damage);
            assert!(!node.good_pass(&mut agent).repaired.is_empty(), "{damage}");
            assert_eq!(foreign(node), before, "after {damage}");
        }
        programs::load(PINS.as_ref(), object::OBJECT).unwrap();
        let after_restart =
            node.session.wait(async { LinuxKernel::open(PINS.as_ref(), "/proc/sys".as_ref()) }).unwrap();
        assert_eq!(node.good_pass(&mut node.agent(&after_restart)).applied, []);
        assert_eq!(foreign(node), before);
        node.traffic_flows();
    });
}
