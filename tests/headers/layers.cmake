# The engine and the adapters never include each other: they meet in the application, and in taskmux.hpp.
cmake_minimum_required(VERSION 3.25)
set(failures "")

# refuse(<regex of headers> <file>...): fails the test for each file that includes such a header.
function(refuse headers)
  foreach(file IN LISTS ARGN)
    file(STRINGS ${file} lines REGEX "^ *# *include *[<\"](taskmux/)?(${headers})")
    foreach(line IN LISTS lines)
      file(RELATIVE_PATH name ${SOURCE_DIR} ${file})
      string(APPEND failures "\n  ${name}: ${line}")
    endforeach()
  endforeach()
  set(failures "${failures}" PARENT_SCOPE)
endfunction()

set(include ${SOURCE_DIR}/include/taskmux)
file(GLOB core ${include}/*.hpp ${include}/detail/*.hpp)
list(FILTER core EXCLUDE REGEX "/taskmux/(taskmux\\.hpp|detail/memory_[^/]*)$")
file(GLOB memory ${include}/memory/*.hpp ${include}/detail/memory_*.hpp)
file(GLOB redis ${include}/redis/*.hpp ${SOURCE_DIR}/src/redis/*)

set(engine "taskmux\\.hpp|client\\.hpp|server\\.hpp|serve_mux\\.hpp|inspector\\.hpp|dead_letter_queue\\.hpp|json\\.hpp|signals\\.hpp|testing\\.hpp")
refuse("redis/|memory/|detail/memory_" ${core})
refuse("${engine}|redis/" ${memory})
refuse("${engine}|memory/|detail/memory_" ${redis})

if(failures)
  message(FATAL_ERROR "against the layers:${failures}")
endif()
