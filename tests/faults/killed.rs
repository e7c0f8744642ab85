//! The program is killed where any system call of a request begins or ends. The host's tree is as it was
//! before the request or as it is after it, or half done in a way that is listed.

use crate::harness::Namespace;
use crate::say;
use crate::tracer::{Plan, Tracer};
use crate::work::{
    Case, Outcome, PLAIN, Sight, Start, Where, World, cases, difference, is_half_done, sight,
};

/// A program that waits for a request, under a tracer.
fn ready(start: Start, case: &Case, plan: Plan) -> (World, Tracer) {
    let mut world = World::new(start);
    world.prepare(case);
    let tracer = Tracer::new(&world.gofer);
    tracer.begin(plan, case.first);
    (world, tracer)
}

/// The tree before and after a request, and how many times its system calls begin and end.
#[track_caller]
fn rehearse(start: Start, case: &Case) -> (Sight, Sight, usize) {
    let (mut world, tracer) = ready(start, case, Plan::Watch);
    let before = sight(&world.tree);
    assert_eq!(world.send(case), Outcome::Done, "{}", case.name);
    tracer.wait_idle();
    (before, sight(&world.tree), tracer.stops())
}

fn kill_everywhere(start: Start, places: &[Where]) {
    let (mut strange, mut killed, mut requests, mut halves) = (Vec::new(), 0, 0, 0);
    for case in cases(places) {
        let (before, after, stops) = rehearse(start, &case);
        if before == after {
            continue;
        }
        requests += 1;
        let (mut was_before, mut was_after) = (false, false);
        for stop in 0..stops {
            let (mut world, tracer) = ready(start, &case, Plan::Kill { stop });
            let _outcome = world.send(&case);
            tracer.wait_idle(); // or gone: one that gave memory back meanwhile comes to no such point
            killed += 1;
            let now = sight(&world.tree);
            was_before |= now == before;
            was_after |= now == after;
            if now == before || now == after {
                continue;
            }
            halves += 1;
            if !is_half_done(&case, &before, &after, &now) {
                let calls = tracer.calls();
                strange.push(format!(
                    "{}, at {stop} of {stops}, behind {:x?}: {:?}",
                    case.name,
                    calls.last(),
                    difference(&after, &now)
                ));
            }
        }
        assert!(
            was_before && was_after,
            "{}: killed too late or too early",
            case.name
        );
    }
    assert!(strange.is_empty(), "{strange:#?}");
    say(&format!(
        "killed at {killed} points of {requests} requests, {start:?}: half done {halves} times, as listed"
    ));
}

#[test]
fn kill_at_any_point_leaves_the_tree_as_before_or_after_or_half_done_as_listed() {
    kill_everywhere(PLAIN, &[Where::Any, Where::Users]);
}

#[test]
fn kill_at_any_point_without_the_clone_leaves_the_tree_as_before_or_after() {
    let start = Start {
        namespace: Some(Namespace::User),
        ..PLAIN
    };
    kill_everywhere(start, &[Where::Any]);
}
