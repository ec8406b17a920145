# Run PROGRAM (by LAUNCHER, if there is one) on EXPECTED.in, if there is one: it must exit with 0 and print EXPECTED.out.
set(input /dev/null)
if(EXISTS ${EXPECTED}.in)
    set(input ${EXPECTED}.in)
endif()
execute_process(COMMAND ${LAUNCHER} ${PROGRAM} INPUT_FILE ${input}
    OUTPUT_VARIABLE printed RESULT_VARIABLE result)
file(READ ${EXPECTED}.out expected)
if(NOT result STREQUAL "0" OR NOT printed STREQUAL expected)
    message(FATAL_ERROR "exit status ${result}; printed:\n${printed}expected:\n${expected}")
endif()
