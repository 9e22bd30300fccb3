# EmbedLua.cmake: the order of what is joined, and what it refuses.
cmake_minimum_required(VERSION 3.25)
file(REMOVE_RECURSE ${FOLDER})

# embed(<variable of the output> <text of main.lua> [<name> <text of the library file>]...)
function(embed variable main)
  file(REMOVE_RECURSE ${FOLDER}/lib)
  file(WRITE ${FOLDER}/main.lua "${main}")
  while(ARGN)
    list(POP_FRONT ARGN name text)
    file(WRITE ${FOLDER}/lib/${name}.lua "${text}")
  endwhile()
  execute_process(COMMAND ${CMAKE_COMMAND} -DSCRIPTS=${FOLDER}/main.lua -DLIBRARY=${FOLDER}/lib -DFOLDER=${FOLDER}/joined
                          -DHEADER=${FOLDER}/texts.hpp -P ${SOURCE_DIR}/cmake/EmbedLua.cmake
                  ERROR_VARIABLE errors RESULT_VARIABLE result)
  if(result EQUAL 0)
    file(READ ${FOLDER}/joined/main.lua joined)
    set(${variable} "${joined}" PARENT_SCOPE)
  else()
    string(REGEX REPLACE "[ \n]+" " " errors "${errors}")
    set(${variable} "refused: ${errors}" PARENT_SCOPE)
  endif()
endfunction()

function(expect_match what text pattern)
  if(NOT text MATCHES "${pattern}")
    message(SEND_ERROR "${what}: \"${text}\" does not match \"${pattern}\"")
  endif()
endfunction()

embed(joined "-- uses: b a\n\n-- Says so.\nreturn a(b)\n" a "-- uses: c\nlocal a\n" b "-- uses: c\nlocal b -- here\n"
      c "-- uses:\n\nlocal c = 'x y'\n")
expect_match("what is used comes first, and once" "${joined}"
             "^-- lib/c.lua\nlocal c = 'x y'\n-- lib/b.lua\nlocal b -- here\n-- lib/a.lua\nlocal a\n-- main.lua\nreturn a.b.\n$")
file(READ ${FOLDER}/texts.hpp header)
string(FIND "${header}" "main = R\"lua(${joined})lua\"" at)
if(at EQUAL -1)
  message(SEND_ERROR "the header does not hold the joined text: ${header}")
endif()

embed(refused "-- uses: nobody\nreturn 1\n")
expect_match("an unknown name is refused" "${refused}" "^refused: .*main.lua: there is no .*nobody.lua")
embed(refused "-- uses: a\nreturn 1\n" a "-- uses: b\n" b "-- uses: a\n")
expect_match("a circle is refused" "${refused}" "^refused: .*in a circle")
embed(refused "return 1\n")
expect_match("a first line that does not say what is used is refused" "${refused}" "^refused: .*main.lua: the first line")
