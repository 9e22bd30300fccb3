# cmake -D SOURCE_DIR=... -D COMPILER=... -D MISUSE=<number> -D TEXT=<text> [-D JSON=ON] [-D OPTIONS=<of the compiler>]
# -P misuse.cmake: checks that misuse.cpp does not compile, with exactly one error that contains TEXT; without TEXT,
# that it compiles.
set(options ${OPTIONS} -std=c++20 -fsyntax-only -I${SOURCE_DIR}/include -DMISUSE=${MISUSE})
if(JSON)
  list(APPEND options -DTASKMUX_MISUSE_JSON)
endif()
execute_process(COMMAND ${CMAKE_COMMAND} -E env LC_ALL=C ${COMPILER} ${options} ${SOURCE_DIR}/tests/headers/misuse.cpp
                RESULT_VARIABLE result ERROR_VARIABLE said OUTPUT_QUIET)
if(TEXT STREQUAL "")
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "what is right does not compile:\n${said}")
  endif()
  return()
endif()
if(result EQUAL 0)
  message(FATAL_ERROR "misuse ${MISUSE} compiles")
endif()
string(REGEX MATCHALL "error: " errors "${said}")
list(LENGTH errors count)
string(FIND "${said}" "${TEXT}" at)
if(at EQUAL -1 OR NOT count EQUAL 1)
  message(FATAL_ERROR "misuse ${MISUSE}: expected one error with \"${TEXT}\", got ${count}:\n${said}")
endif()
