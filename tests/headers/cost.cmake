# The cost of including taskmux.hpp: at most MAX_LINES preprocessed lines, none of the heavy headers, and no code for
# unused classes.
cmake_minimum_required(VERSION 3.25)
set(command ${COMPILER} -std=c++20 -I${SOURCE_DIR}/include -x c++
            ${SOURCE_DIR}/include/taskmux/taskmux.hpp)

execute_process(COMMAND ${command} -M OUTPUT_VARIABLE headers ERROR_QUIET
                COMMAND_ERROR_IS_FATAL ANY)
set(heavy "c\\+\\+/[0-9.]+/(random|regex|iostream)|hiredis/[^ ]*|fmt/[^ ]*|nlohmann/[^ ]*")
if(headers MATCHES "[^ ]*/(${heavy})[ \n]")
  message(SEND_ERROR "taskmux.hpp includes ${CMAKE_MATCH_0}")
endif()

execute_process(COMMAND ${command} -E -P OUTPUT_VARIABLE text ERROR_QUIET
                COMMAND_ERROR_IS_FATAL ANY)
string(REGEX REPLACE "[^\n]+" "" newlines "${text}")
string(LENGTH "${newlines}" lines)
message("taskmux.hpp preprocesses to ${lines} lines; ${MAX_LINES} are allowed")
if(lines GREATER MAX_LINES)
  message(SEND_ERROR "taskmux.hpp has become too heavy")
endif()

# If the first virtual function of a class is not inline where the class is defined, its table, and all that the table
# refers to, is compiled in every file that includes the header.
foreach(header taskmux.hpp testing.hpp)
  execute_process(COMMAND ${COMPILER} -std=c++20 -I${SOURCE_DIR}/include -x c++ -S -o -
                          ${SOURCE_DIR}/include/taskmux/${header}
                  OUTPUT_VARIABLE code ERROR_QUIET COMMAND_ERROR_IS_FATAL ANY)
  if(code MATCHES "\n(_ZTVN7taskmux[A-Za-z0-9_]*):")
    message(SEND_ERROR "including ${header} compiles ${CMAKE_MATCH_1}: declare its class's virtual functions inline")
  endif()
endforeach()
