//! The sandbox's helper and nothing else: what tests name in `Policy::helper`, since a test binary has no `main` of ours.

fn main() {
    tools::maybe_become_helper();
    eprintln!("this is the sandbox's helper; the service starts it");
    std::process::exit(2);
}
