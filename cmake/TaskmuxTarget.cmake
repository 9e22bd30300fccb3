# taskmux_target(<target>): what all of our own programs and libraries share, and no user of ours inherits.
function(taskmux_target target)
  if(TASKMUX_WARNINGS)
    target_compile_options(${target} PRIVATE ${TASKMUX_WARNINGS})
  endif()
  if(TASKMUX_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${TASKMUX_SANITIZE} -fno-omit-frame-pointer
                                             -fno-sanitize-recover=all)
    target_link_options(${target} PRIVATE -fsanitize=${TASKMUX_SANITIZE})
    # Calls of AddressSanitizer's checks rather than inline ones: the same reports for a fifth less time in GCC.
    target_compile_options(${target} PRIVATE
      "$<$<CXX_COMPILER_ID:GNU>:SHELL:--param asan-instrumentation-with-call-threshold=0>")
    # GCC warns of libstdc++'s own std::function once that is instrumented.
    target_compile_options(${target} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
  endif()
endfunction()
