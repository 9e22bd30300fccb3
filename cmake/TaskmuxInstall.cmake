# The package: one export set per component, so that a user of only the core needs none of the other components'
# dependencies.
include(CMakePackageConfigHelpers)
set(taskmux_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/taskmux)

# taskmux_install_component(<component> <target> [<folder of its headers>])
function(taskmux_install_component component target)
  set(headers ${CMAKE_INSTALL_INCLUDEDIR})
  if(ARGC GREATER 2)
    set(headers ${ARGV2})
  endif()
  install(TARGETS ${target} EXPORT taskmux-${component} FILE_SET HEADERS DESTINATION ${headers})
  install(EXPORT taskmux-${component} NAMESPACE taskmux:: DESTINATION ${taskmux_package_dir}
          FILE taskmux-${component}-targets.cmake)
endfunction()

taskmux_install_component(core taskmux)
# In a separate folder: no other compiler run finds headers of tests.
taskmux_install_component(contract taskmux_contract ${CMAKE_INSTALL_INCLUDEDIR}/taskmux-contract)
if(TARGET taskmux_compiled)
  taskmux_install_component(compiled taskmux_compiled)
endif()
if(TARGET taskmux_json)
  taskmux_install_component(json taskmux_json)
endif()
if(TARGET taskmux_redis)
  taskmux_install_component(redis taskmux_redis)
  # A static library leaves linking its dependencies to the program, so the package must be able to find them.
  get_target_property(taskmux_redis_type taskmux_redis TYPE)
  install(FILES ${PROJECT_SOURCE_DIR}/cmake/Findhiredis.cmake DESTINATION ${taskmux_package_dir})
endif()

configure_package_config_file(
  ${PROJECT_SOURCE_DIR}/cmake/taskmux-config.cmake.in ${PROJECT_BINARY_DIR}/taskmux-config.cmake
  INSTALL_DESTINATION ${taskmux_package_dir} NO_SET_AND_CHECK_MACRO)
# Before 1.0, a new minor version may be incompatible.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/taskmux-config-version.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/taskmux-config.cmake
              ${PROJECT_BINARY_DIR}/taskmux-config-version.cmake
        DESTINATION ${taskmux_package_dir})
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
