#!/bin/sh
# Print the branch coverage of the quick part of the tests, of the rest, and of both: coverage.sh BIN FOLDER
set -eu
bin=$1 folder=$2
unset COVERAGE_PROCESS_START

report() {
    COVERAGE_FILE="$folder/$1.all" "$bin/python" -m coverage combine --quiet --keep $2
    printf '%s: ' "$1"
    COVERAGE_FILE="$folder/$1.all" "$bin/python" -m coverage report --format=total
}

report quick "$folder/quick"
report rest "$folder/rest"
report both "$folder/quick $folder/rest"
