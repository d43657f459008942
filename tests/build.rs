//! Lets the tests find libtorch where it was built, without LD_LIBRARY_PATH.

fn main() {
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    if let Some(libtorch) = std::env::var_os("LIBTORCH") {
        println!("cargo::rustc-link-arg-tests=-Wl,-rpath,{}/lib", libtorch.to_string_lossy());
    }
}
