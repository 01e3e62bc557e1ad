//! The program behind [`weft_tests::sockets::SocketProcess`]: sockets that do what they are told by standard input.

fn main() -> anyhow::Result<()> {
    weft_tests::socket_program::run()
}
