# SPDX-License-Identifier: MIT
# Which tests are left out where qemu-user runs them (aarch64.cmake): those that are about something
# that it does not do. The configuration lists them.

set(emulated_reasons 0)

# emulator REASON PATTERN...: and what it leaves out, by the whole name of a test.
macro(emulator reason)
    set(emulated_reason_${emulated_reasons} "${reason}")
    string(REPLACE ";" "|" emulated_tests_${emulated_reasons} "${ARGN}")
    math(EXPR emulated_reasons "${emulated_reasons} + 1")
endmacro()

emulator("sets no limits on memory"
    modules[.]os[.]the_limit_on_address_space_is_the_one_in_force
    modules[.]region[.]under_a_limit_on_address_space_extra_arenas_follow_the_region
    modules[.]region[.]where_writable_reservations_are_refused_arenas_are_committed_one_by_one
    modules[.]region[.]where_nothing_can_be_reserved_there_is_no_region_and_no_memory
    modules[.]stats[.]arenas_outside_the_region_are_counted_and_vacated_ones_are_not
    family[.]operators[.].*[.]new_succeeds_once_its_handler_has_freed_memory)
emulator("sets no limits, has no seccomp, and starts no other program under itself"
    family[.]environment[.].*
    family[.]trace[.].*
    modules[.]options[.]a_process_says_its_problems_once)
emulator("takes pages that mremap leaves mapped (MREMAP_DONTUNMAP) for unmapped"
    modules[.]os[.]moved_pages_are_there_and_the_old_ones_read_as_zeros
    modules[.]large[.]the_content_of_a_huge_block_moves_without_a_copy
    modules[.]theap[.]resizing_between_any_two_sizes_keeps_the_content
    family[.]blocks[.].*[.]realloc_keeps_contents_.*)
emulator("is itself most of what /proc says of memory"
    modules[.]stats[.]arenas_of_classic_heaps_are_resident_as_they_are_used
    modules[.]stats[.]heaps_of_threads_are_resident_metadata
    family[.]threads[.].*[.]destructors_after_the_librarys_own_allocate_without_growth
    family[.]threads[.].*[.]ten_thousand_threads_leave_no_trace
    family[.]threads[.].*[.]blocks_of_a_thread_that_stopped_for_ever_are_used_again
    family[.]operators[.].*[.]thread_local_destructors_may_allocate)
emulator("has too few addresses, as it is started"
    modules[.]arena[.]claims_of_every_length_and_alignment_fill_the_region_exactly
    modules[.]arena[.]claims_of_whole_arenas_fill_the_region_exactly
    modules[.]large[.]what_cannot_be_had_is_refused_and_nothing_is_consumed)
emulator("agrees to MADV_WIPEONFORK and does nothing"
    modules[.]holder[.]a_child_takes_the_heaps_of_its_parents_other_threads
    modules[.]holder[.]until_the_survivor_has_come_by_nobody_is_dead
    modules[.]holder[.]a_child_of_a_child_does_so_too)
emulator("is slow: the library is the same as preloaded, and these take longest"
    family[.].*[.]linked[.].*
    family[.]dlopen[.].*
    family[.]contract[.].*[.]free_sized_and_free_aligned_sized_free
    family[.]blocks[.].*[.]the_usable_end_of_large_blocks_is_writable
    family[.]blocks[.].*[.]an_aligned_block_is_resized_and_freed_like_any_other
    family[.]operators[.].*[.]every_new_goes_with_every_delete_of_its_kind)
emulator("fails itself in a child of several threads that starts one, or is slow to make one"
    family[.]interrupt[.].*[.]children_.*)
emulator("fails itself in a child of several threads that starts one, and says less of threads"
    modules[.]purger[.].*)
emulator("is not x86-64, whose trap flag steps through a call"
    family[.]stepped[.].*)

# emulator_leaves_out TEST RESULT
function(emulator_leaves_out test result)
    set(${result} NO PARENT_SCOPE)
    if(NOT CMAKE_CROSSCOMPILING)
        return()
    endif()
    math(EXPR last "${emulated_reasons} - 1")
    foreach(number RANGE ${last})
        if(test MATCHES "^(${emulated_tests_${number}})$")
            message(STATUS "${test}: left out, for the emulator ${emulated_reason_${number}}")
            set(${result} YES PARENT_SCOPE)
        endif()
    endforeach()
endfunction()
