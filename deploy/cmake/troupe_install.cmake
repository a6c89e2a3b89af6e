# `cmake --install`: the binary, and for programs the libraries, headers and package files behind
# find_package(troupe), whose target is troupe::client.
include(CMakePackageConfigHelpers)

# What programs link: the client and all that it stands on.
add_library(troupe_client INTERFACE)
target_link_libraries(troupe_client INTERFACE troupe_actors)
set_target_properties(troupe_client PROPERTIES EXPORT_NAME client)

set(package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/troupe")
set(installed troupe_options troupe_client)
foreach(room base model gpu gpu_cuda engine transport actors)
  if(TARGET troupe_${room})
    list(APPEND installed troupe_${room})
  endif()
endforeach()
install(TARGETS ${installed} EXPORT troupe ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}")
install(EXPORT troupe NAMESPACE troupe:: FILE troupe-targets.cmake DESTINATION "${package_dir}")

foreach(room base model gpu engine transport actors)
  install(DIRECTORY "${CMAKE_SOURCE_DIR}/${room}" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}/troupe"
          FILES_MATCHING PATTERN "*.hpp")
endforeach()

configure_package_config_file("${CMAKE_SOURCE_DIR}/deploy/cmake/troupe-config.cmake.in"
                              "${CMAKE_BINARY_DIR}/troupe-config.cmake" INSTALL_DESTINATION "${package_dir}")
# 0.x: a minor version may change the client.
write_basic_package_version_file("${CMAKE_BINARY_DIR}/troupe-config-version.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_BINARY_DIR}/troupe-config.cmake" "${CMAKE_BINARY_DIR}/troupe-config-version.cmake"
              "${CMAKE_SOURCE_DIR}/deploy/cmake/troupe_caf.cmake" DESTINATION "${package_dir}")

if(TARGET troupe)
  install(TARGETS troupe RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}")
endif()
install(DIRECTORY "${CMAKE_SOURCE_DIR}/docs/" DESTINATION "${CMAKE_INSTALL_DOCDIR}" FILES_MATCHING
        PATTERN "*.md" PATTERN "examples/*" PATTERN "pictures/*")
install(DIRECTORY "${CMAKE_SOURCE_DIR}/dashboards" DESTINATION "${CMAKE_INSTALL_DATADIR}/troupe")
install(DIRECTORY "${CMAKE_SOURCE_DIR}/deploy/systemd" "${CMAKE_SOURCE_DIR}/deploy/slurm"
        DESTINATION "${CMAKE_INSTALL_DATADIR}/troupe" USE_SOURCE_PERMISSIONS)
