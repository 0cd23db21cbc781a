#!/bin/sh
# Print the branch coverage of the quick part of the tests, of the rest, and of both: coverage.sh BIN FOLDER
set -eu
bin=$1 folder=$2
unset COVERAGE_PROCESS_START

report() {
    name=$1
    shift
    COVERAGE_FILE="$folder/$name.all" "$bin/python" -m coverage combine --quiet --keep "$@"
    printf '%s: ' "$name"
    COVERAGE_FILE="$folder/$name.all" "$bin/python" -m coverage report --format=total
}

report quick "$folder"/quick/data.*
report rest "$folder"/rest/data.*
report both "$folder"/*/data.*
