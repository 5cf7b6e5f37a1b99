//! Mistakes that the compiler finds, and what it says of them.

#[test]
fn mistakes_do_not_compile() {
    let tests = trybuild::TestCases::new();
    // With a program that passes, trybuild builds all of them, which finds what only code
    // generation can know: the size of a closure.
    tests.pass("tests/compile_fail/right.rs");
    tests.compile_fail("tests/compile_fail/wrong_*.rs");
}
