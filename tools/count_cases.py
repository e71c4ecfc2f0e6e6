"""Print what is promised of strangers' files, the tests that hold it, and how many cases they run."""

import re
import subprocess
import sys
from collections import Counter

PROMISES = {
    "a damaged or hostile folder is refused with a message of its own, and nothing is run or written": (
        "test_every_message_says_what_was_found",
        "test_the_command_says_the_same_and_no_more",
        "test_a_pickle_cut_anywhere",
    ),
    "what a header says is what safetensors reads, whatever the header": (
        "test_every_header_that_is_accepted_is_what_safetensors_reads",
        "test_every_file_that_safetensors_writes_is_accepted",
    ),
    "any JSON in any config field builds a model or is an error of ours": (
        "test_any_json_in_any_field_builds_or_is_an_error_of_ours",
        "test_what_is_refused_names_the_field",
        "test_a_bad_value_names_the_field_in_the_file_s_own_spelling",
    ),
    "small changes of good files give answers or errors of ours, in 2 seconds and 200 MB": (
        "test_good_inputs_and_small_changes_of_them_keep_the_promises",
    ),
    "links are followed inside the folder and the Hub's cache only, unless you allow others": (
        "test_links_inside_the_folder_and_inside_the_cache_are_followed",
        "test_links_out_of_the_folder_are_followed_where_that_is_allowed",
        "test_an_export_does_not_take_a_linked_companion_along",
    ),
    "no code of a repository is run": (
        "test_remote_code_is_not_looked_at",
        "test_safetensors_are_preferred_so_that_a_pickle_beside_them_is_not_opened",
    ),
    "weights that are not finite are named": (
        "test_weights_that_are_not_finite_load_and_are_named",
        "test_a_cast_that_overflows_is_named",
    ),
    "a bad answer of the Hub is one line, in time, and nothing is written outside the cache": (
        "test_every_answer_of_the_hub_is_one_line",
        "test_a_silent_server_is_given_up_in_time",
        "test_a_server_that_is_gone_is_noticed_at_once",
        "test_a_disk_that_is_full_while_downloading",
        "test_two_processes_that_load_from_the_hub_at_once",
    ),
    "a changed byte in the cache is found on demand": (
        "test_a_flipped_byte_in_the_cache_is_found_offline",
        "test_a_folder_has_no_hashes_to_compare_with",
    ),
    "a load with --copy does not depend on the file any more": (
        "test_a_copied_load_does_not_care_what_becomes_of_the_file",
    ),
    "an export is complete or did not happen": (
        "test_export_to_a_folder_that_holds_something",
        "test_export_to_a_disk_that_is_full",
        "test_what_was_there_stays_until_the_new_one_is_whole",
        "test_an_export_that_was_killed_leaves_the_target_and_is_cleared_up_by_the_next",
        "test_two_processes_that_export_to_the_same_targets_at_once",
    ),
}


def cases() -> Counter[str]:
    """How many cases pytest collects of each test function."""
    files = [f"tests/test_{name}.py" for name in ("messages", "config", "folder_files")]
    words = [sys.executable, "-m", "pytest", "--collect-only", "-q", *files]
    listed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return Counter(re.findall(r"::(\w+)", listed))


def main() -> None:
    """Print the table."""
    count = cases()
    print("| promise | held by | cases |\n|---|---|---|")
    for promise, tests in PROMISES.items():
        for number, test in enumerate(tests):
            print(f"| {promise if number == 0 else ''} | `{test}` | {count[test]} |")
    listed = [test for tests in PROMISES.values() for test in tests]
    assert all(count[test] for test in listed), [test for test in listed if not count[test]]
    print(f"| together | | {sum(count[test] for test in listed)} |")


if __name__ == "__main__":
    main()
