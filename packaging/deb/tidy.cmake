# CPack runs this when the packages are made. It gives a package of shared libraries scripts that call
# ldconfig, and cannot be told not to; the trigger in packaging/CMakeLists.txt does that already.
foreach(package ${CPACK_PACKAGE_FILES})
  if(NOT package MATCHES "/libinvokekv[0-9]+_[^/]*\\.deb$")
    continue()
  endif()
  set(tree ${package}.tree)
  execute_process(COMMAND dpkg-deb --raw-extract ${package} ${tree} COMMAND_ERROR_IS_FATAL ANY)
  file(REMOVE ${tree}/DEBIAN/postinst ${tree}/DEBIAN/postrm)
  execute_process(COMMAND dpkg-deb --root-owner-group --build ${tree} ${package}
                  OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
  file(REMOVE_RECURSE ${tree})
endforeach()
