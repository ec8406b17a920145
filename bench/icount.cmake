# icount: instructions and atomic operations of one malloc and one free, by single-stepping; see icount.c.
if(CMAKE_SYSTEM_NAME STREQUAL "Linux" AND CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|aarch64")
    find_package(Threads REQUIRED)
    add_executable(icount ${CMAKE_CURRENT_LIST_DIR}/icount.c)
    set_target_properties(icount PROPERTIES
        C_STANDARD 11 C_STANDARD_REQUIRED ON C_EXTENSIONS OFF
        RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bench)
    target_link_libraries(icount PRIVATE Threads::Threads ${CMAKE_DL_LIBS})
endif()
