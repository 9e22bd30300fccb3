# Checks the joined scripts with luac and luacheck, if these are installed.
cmake_minimum_required(VERSION 3.25)
file(GLOB scripts ${SCRIPTS}/*.lua)
if(NOT scripts)
  message(FATAL_ERROR "no scripts in ${SCRIPTS}")
endif()
find_program(luac NAMES luac5.1)
find_program(luacheck NAMES luacheck)
if(NOT luac OR NOT luacheck)
  message("skipped: luac5.1 (Debian's lua5.1) or luacheck (lua-check) is not installed")
  return()
endif()
execute_process(COMMAND ${luac} -p ${scripts} COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${luacheck} --config ${SOURCE_DIR}/src/redis/scripts/.luacheckrc --no-cache --no-color --codes
                        --formatter plain ${scripts}
                COMMAND_ERROR_IS_FATAL ANY)
