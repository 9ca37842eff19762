//! What is counted comes out as Prometheus reads it, and never more than the bound.

use metrics::{counter, describe_counter, describe_histogram, gauge, histogram, with_local_recorder};

use super::*;

fn recorded(work: impl FnOnce()) -> String {
    let recorder = MetricsRecorder::default();
    with_local_recorder(&recorder, work);
    recorder.render()
}

#[test]
fn counters_and_gauges_of_one_name_stand_together() {
    let text = recorded(|| {
        describe_counter!("calls_total", Unit::Count, "Calls.");
        counter!("calls_total", "peer" => "2").increment(2);
        counter!("calls_total", "peer" => "1").increment(1);
        counter!("calls_total", "peer" => "2").increment(3);
        gauge!("up").set(1.5);
        gauge!("up").decrement(0.25);
    });
    let expected = "# HELP calls_total Calls.\n# TYPE calls_total counter\n\
                    calls_total{peer=\"1\"} 1\ncalls_total{peer=\"2\"} 5\n\
                    # TYPE up gauge\nup 1.25\n";
    assert!(text.starts_with(expected), "{text}");
    assert!(text.ends_with("rivven_metrics_refused_total 0\n"), "{text}");
}

#[test]
fn a_histogram_counts_each_value_in_every_bucket_above_it() {
    let text = recorded(|| {
        describe_histogram!("wait", Unit::Seconds, "Time.");
        for value in [0.000_05, 0.003, 100.0] {
            histogram!("wait", "class" => "raft").record(value);
        }
        histogram!("batch_bytes").record(5.0);
    });
    for line in [
        "wait_bucket{class=\"raft\",le=\"0.00005\"} 1",
        "wait_bucket{class=\"raft\",le=\"0.0025\"} 1",
        "wait_bucket{class=\"raft\",le=\"0.005\"} 2",
        "wait_bucket{class=\"raft\",le=\"10\"} 2",
        "wait_bucket{class=\"raft\",le=\"+Inf\"} 3",
        "wait_sum{class=\"raft\"} 100.00305",
        "wait_count{class=\"raft\"} 3",
        "batch_bytes_bucket{le=\"4\"} 0",
        "batch_bytes_bucket{le=\"16\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line:?} in\n{text}");
    }
}

#[test]
fn hostile_names_and_labels_cannot_forge_lines() {
    let text = recorded(|| counter!("a b\nc", "d\"" => "e\"\n\\f").increment(1));
    assert!(text.contains("\na_b_c{d_=\"e\\\"\\n\\\\f\"} 1\n"), "{text}");
}

#[test]
fn series_beyond_the_bound_are_refused_and_counted() {
    let text = recorded(|| {
        for number in 0..MAX_SERIES + 7 {
            counter!("many_total", "number" => number.to_string()).increment(1);
        }
        // Those that exist go on counting.
        counter!("many_total", "number" => "0").increment(1);
    });
    assert_eq!(text.matches("many_total{").count(), MAX_SERIES);
    assert!(text.contains("many_total{number=\"0\"} 2\n"));
    assert!(text.ends_with("rivven_metrics_refused_total 7\n"));
}

#[test]
fn one_name_is_of_one_kind() {
    let text = recorded(|| {
        counter!("thing").increment(1);
        gauge!("thing").set(9.0);
    });
    assert!(text.contains("# TYPE thing counter\nthing 1\n"), "{text}");
}
