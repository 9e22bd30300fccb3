# How many symbols a file emits that makes a Server and a MemoryBroker, that is, how much it compiles that other files
# compile, too. At most MAX_HEADERS with headers alone, and MAX_COMPILED with taskmux::compiled. Symbols are counted
# since their number is the same on every machine, unlike compile time.
cmake_minimum_required(VERSION 3.25)

# count(<name> <most> <option>...): fails if the file emits more than <most> symbols.
function(count name most)
  set(object ${BINARY_DIR}/symbols_${name}.o)
  execute_process(COMMAND ${COMPILER} -std=c++20 -O2 -I${SOURCE_DIR}/include ${ARGN}
                          -c ${SOURCE_DIR}/tests/headers/user.cpp -o ${object}
                  COMMAND_ERROR_IS_FATAL ANY)
  execute_process(COMMAND ${NM} --defined-only ${object} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX REPLACE "[^\n]+" "" newlines "${symbols}")
  string(LENGTH "${newlines}" number)
  message("${name}: ${number} symbols; ${most} are allowed")
  if(number GREATER most)
    message(SEND_ERROR "a file that makes a Server compiles too much of the library")
  endif()
endfunction()

count(headers ${MAX_HEADERS})
count(compiled ${MAX_COMPILED} -DTASKMUX_COMPILED)
